"""No flipped bit of a bundle, or of its ledger proof, is accepted; none ends in a traceback, or costs much.

The fast tests flip some bits spread evenly over each file, the slow ones thousands; with UCAUDIT_EVERY_BIT=1 in
the environment they flip every bit of every file, which takes half an hour of processor time. One process does all
flips of a file: a second of start-up a flip would hide what is measured.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_bundles import GOOD, HOSTILE, lay

from ucaudit.core.errors import InputError, LedgerInconsistentError, VerificationError
from ucaudit.evidence import contents
from ucaudit.evidence import verify as module
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.ledger import verify_envelope_proof
from ucaudit.evidence.trust import load_trust

FILES = sorted(path.name for path in GOOD.iterdir())
SAMPLES, MANY = 128, 2048
"""How many bits, or lengths, of a file the fast tests try, and the slow ones."""
SECONDS = 1.0
MEMORY = 200 << 20


@pytest.fixture(scope="module")
def trust():
    return load_trust(HOSTILE / "trust.toml")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOOD, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def figures_once(monkeypatch):
    """The bootstrap over the same values gives the same figures; only the first run pays for it."""
    known = {}
    original = contents.compute_results

    def compute(values, **arguments):
        key = (values.windows, *(bytes(item) for item in (values.reference, values.pack, values.kl, values.top1)))
        key += tuple(sorted(arguments.items()))
        if key not in known:
            known[key] = original(values, **arguments)
        return known[key]

    monkeypatch.setattr(contents, "compute_results", compute)


def accepted(path, trust) -> bool:
    """Whether verification passes. Anything but a finding or an input error is a bug, and fails the test."""
    try:
        return module.verify_bundle(open_bundle(path), trust).authentic
    except InputError as error:
        assert error.code and error.subject and "\n" not in str(error)
        return False


def flip_bits(path: Path, positions, judge) -> tuple[int, float]:
    """Flip each bit in turn, in place, and judge. Returns how many, and the longest judgement in seconds."""
    original = path.read_bytes()
    longest, count = 0.0, 0
    with path.open("r+b", buffering=0) as handle:
        for position in positions:
            place, bit = divmod(position, 8)
            os.pwrite(handle.fileno(), bytes([original[place] ^ 1 << bit]), place)
            began = time.process_time()
            good = judge()
            longest = max(longest, time.process_time() - began)
            os.pwrite(handle.fileno(), original[place : place + 1], place)
            assert not good, f"{path.name}: bit {bit} of byte {place} was flipped and accepted"
            count += 1
    assert path.read_bytes() == original
    return count, longest


def spread(size: int, samples: int = SAMPLES) -> range:
    """About so many places below ``size``; an odd stride, so that all eight bits of a byte come up."""
    return range(0, size, size // samples | 1)


def many(size: int) -> range:
    """As many as there is time for."""
    return range(size) if os.environ.get("UCAUDIT_EVERY_BIT") == "1" else spread(size, MANY)


def check_file(copy, name, trust, choose):
    assert accepted(copy, trust)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    positions = choose((copy / name).stat().st_size * 8)
    count, longest = flip_bits(copy / name, positions, lambda: accepted(copy, trust))
    assert count == len(positions) >= SAMPLES // 2
    assert longest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10
    assert accepted(copy, trust)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_refused(copy, name, trust):
    check_file(copy, name, trust, spread)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
def test_many_flipped_bits_are_refused(copy, name, trust):
    check_file(copy, name, trust, many)


@pytest.mark.parametrize("choose", [spread, pytest.param(many, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["ledger-proof", "plan-ledger-proof"])
def test_flipped_bits_of_a_proof_on_its_own_are_refused(tmp_path, name, choose):
    """Without a closing statement around it, the proof still stands by itself."""
    path = Path(shutil.copy(GOOD / name, tmp_path / name))
    envelope = GOOD / ("attestation.dsse.json" if name == "ledger-proof" else "plan.dsse.json")
    digest = subprocess.run(["sha256sum", envelope], capture_output=True, text=True, check=True).stdout[:64]
    vkey = (HOSTILE / "ledger.vkey").read_text().strip()

    def judge():
        try:
            verify_envelope_proof(path.read_bytes(), digest, vkey)
        except (LedgerInconsistentError, InputError):
            return False
        return True

    assert judge()
    flip_bits(path, choose(path.stat().st_size * 8), judge)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(copy, name, trust):
    """A torn copy. (A line break at the end of JSON says nothing.)"""
    whole = (copy / name).read_bytes()
    for length in [*spread(len(whole)), len(whole.rstrip()) - 1]:
        (copy / name).write_bytes(whole[:length])
        assert not accepted(copy, trust), length


def test_a_fresh_process_stays_small_and_quick(tmp_path):
    """The whole command on a flipped bundle, as a user runs it: one second and 200 MB hold for it too."""
    laid = lay("good", tmp_path)
    data = bytearray((laid.bundle / "report-soc2.pdf").read_bytes())
    data[3] ^= 4
    (laid.bundle / "report-soc2.pdf").write_bytes(data)
    program = (
        "import re, sys, time; from ucaudit.cli.main import main\n"
        "began = time.perf_counter()\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stopped: code = stopped.code\n"
        # not getrusage: its ru_maxrss is inherited from the process that started this one
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(code, time.perf_counter() - began, peak, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *laid.words], capture_output=True, text=True, check=False, timeout=60
    )
    code, seconds, kib = done.stderr.strip().splitlines()[-1].split()
    assert code == "1", done.stderr
    assert int(kib) << 10 < MEMORY
    assert float(seconds) < 2 * SECONDS  # imports included, on a machine that does other work too


def test_the_property_can_fail(copy, trust):
    """A verifier that forgot the closing statement would be caught."""

    def careless():
        result = module.verify_bundle(open_bundle(copy), trust)
        return not [check for check in result.failures if check.slug != "closing"]

    with pytest.raises(AssertionError, match="flipped and accepted"):
        flip_bits(copy / "report-soc2.pdf", range(8), careless)
    assert issubclass(LedgerInconsistentError, VerificationError)
