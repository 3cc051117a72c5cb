"""No flipped bit of a bundle or of its proof is accepted; none ends in a traceback, takes long, or much memory.

The fast tests flip every bit of the smallest files and a stride through the others; the slow ones flip every bit of
every file, on all cores. Everything happens in one process a file: a second of start-up a flip would hide what is
measured.
"""

import multiprocessing
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
from ucaudit.evidence import contents, registered, signing
from ucaudit.evidence import verify as module
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.ledger import verify_envelope_proof
from ucaudit.evidence.trust import load_trust

FILES = sorted(path.name for path in GOOD.iterdir())
SMALL = 100
"""Bytes up to which the fast tests leave no bit out."""
FLIPS = 250
"""About how many flips the fast tests spend on each of the others."""
SECONDS = 1.0
"""Of processor time: the promise does not depend on what else the machine does."""
MEMORY = 200 << 20


@pytest.fixture(scope="module")
def trust():
    return load_trust(HOSTILE / "trust.toml")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOOD, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def pure_functions_once(monkeypatch):
    """A function of bytes alone is computed once for the same bytes: a flip leaves most of them as they are."""
    remember(
        monkeypatch, contents, "compute_results", lambda values, **rest: (key_of(values), *sorted(rest.items()))
    )
    remember(monkeypatch, contents, "judge_all", lambda record, results, values: (id(record), key_of(values)))
    remember(monkeypatch, signing, "parse_statement", lambda payload, *, subject: (payload, subject))
    remember(monkeypatch, registered, "entry_for", lambda envelope, at: (envelope.raw, at))
    remember(monkeypatch, PublicKey, "verify", lambda self, signature, data: (self.spki, signature, data))


def key_of(values):
    return values.windows, *(bytes(item) for item in (values.reference, values.pack, values.kl, values.top1))


def remember(monkeypatch, owner, name, key):
    """Cache a function's results, and nothing of what it raises."""
    known, original, kept = {}, getattr(owner, name), []

    def call(*words, **more):
        mark = key(*words, **more)
        if mark not in known:
            known[mark] = original(*words, **more)
            kept.append(words)  # an id in a key must not be used again
        return known[mark]

    monkeypatch.setattr(owner, name, call)


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


def check_file(copy, name, trust, stride):
    assert accepted(copy, trust)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bits = (copy / name).stat().st_size * 8
    count, longest = flip_bits(copy / name, range(0, bits, stride), lambda: accepted(copy, trust))
    assert count == -(-bits // stride)
    assert longest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10
    assert accepted(copy, trust)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_refused(copy, name, trust):
    size = (copy / name).stat().st_size
    check_file(
        copy, name, trust, 1 if size <= SMALL else 8 * size // FLIPS | 1
    )  # odd: all eight bits of a byte come up


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if (GOOD / name).stat().st_size > SMALL])
def test_every_flipped_bit_is_refused(tmp_path, name, trust):
    """Each core takes every n-th bit, in a copy of its own."""
    cores = len(os.sched_getaffinity(0))
    workers = []
    for core in range(cores):
        bundle = shutil.copytree(GOOD, tmp_path / str(core))
        worker = multiprocessing.get_context("fork").Process(
            target=flip_share, args=(bundle, name, trust, core, cores)
        )
        worker.start()
        workers.append(worker)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * cores, "see the traceback above"


def flip_share(bundle, name, trust, first, step):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bits = (bundle / name).stat().st_size * 8
    assert accepted(bundle, trust)
    count, longest = flip_bits(bundle / name, range(first, bits, step), lambda: accepted(bundle, trust))
    assert count == len(range(first, bits, step))
    assert longest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10


@pytest.mark.parametrize("name", ["ledger-proof", "plan-ledger-proof"])
def test_every_flipped_bit_of_a_proof_on_its_own(tmp_path, name):
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
    flip_bits(path, range(path.stat().st_size * 8), judge)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(copy, name, trust):
    """Prefixes, the empty one too: a torn copy."""
    whole = (copy / name).read_bytes()
    for length in range(0, len(whole), max(len(whole) // 60, 1)):
        (copy / name).write_bytes(whole[:length])
        assert not accepted(copy, trust), length


def test_a_fresh_process_stays_small_and_quick(tmp_path):
    """The whole command on a flipped bundle, as a user runs it: one second and 200 MB hold for it too."""
    laid = lay("good", tmp_path)
    data = bytearray((laid.bundle / "report-soc2.pdf").read_bytes())
    data[3] ^= 4
    (laid.bundle / "report-soc2.pdf").write_bytes(data)
    program = (
        "import resource, sys, time; from ucaudit.cli.main import main\n"
        "began = time.process_time()\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(code, time.process_time() - began, used, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *laid.words], capture_output=True, text=True, check=False, timeout=60
    )
    code, seconds, kib = done.stderr.strip().splitlines()[-1].split()
    assert code == "1", done.stderr
    assert int(kib) << 10 < MEMORY
    assert float(seconds) < SECONDS + 0.5  # imports included


def test_the_property_can_fail(copy, trust):
    """A verifier that forgot the closing statement would be caught."""

    def careless():
        result = module.verify_bundle(open_bundle(copy), trust)
        return not [check for check in result.failures if check.slug != "closing"]

    with pytest.raises(AssertionError, match="flipped and accepted"):
        flip_bits(copy / "report-soc2.pdf", range(8), careless)
    assert issubclass(LedgerInconsistentError, VerificationError)
