"""A ledger whose writer dies: at every operation on the disk, at every byte of a write, at random moments.

What must hold each time: every acknowledged entry is there and provable, the next append works, and what the dead
writer left is gone or whole.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import DIED, MEMORY, ORIGIN, SIGNER, dying_at, grow, in_child, leaves, make_signer

from ucaudit.core.errors import OutputError, UcauditError
from ucaudit.evidence.ledger import Ledger, Witness, WitnessKey, attach_cosignature, repair_ledger, verify_proof

SIGNER_OF_WITNESS = make_signer(b"a witness")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one."""
    if MEMORY is None:
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="ucaudit-crash-", dir=MEMORY))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ledger(place: Path) -> Ledger:
    return Ledger.init(place / "ledger", ORIGIN, SIGNER)


def others(start: int, stop: int) -> list[bytes]:
    return [b"other %d" % number for number in range(start, stop)]


def check_after(path: Path, old: int, new: int) -> None:
    """Nothing acknowledged is lost; the append that died is there as a whole or not at all."""
    ledger = Ledger.open(path)
    before = ledger.checkpoint()
    entries = list(ledger.entries())
    assert entries in (leaves(0, old), leaves(0, old) + others(old, new))
    for index in {0, old // 2, old - 1} & set(range(old)):
        assert verify_proof(ledger.prove(index), b"entry %d" % index, ledger.vkey).index == index
    try:
        ledger.verify()
    except UcauditError as error:
        assert "an append was interrupted" in str(error)
    [index] = ledger.append([b"next"], SIGNER)
    assert index in (old, new)
    summary = ledger.verify(since=before)
    assert (summary.size, summary.leftovers) == (index + 1, ())
    assert list(ledger.entries()) == [*leaves(0, old), *others(old, index), b"next"]


LARGER = [(5, 6), (250, 260), (255, 256), (256, 257), (511, 1030)]


@pytest.mark.parametrize(
    ("old", "new"),
    [(0, 1), (5, 9), *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGER)],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_every_operation(ledger: Ledger, place: Path, old: int, new: int, after: bool) -> None:
    grow(ledger, old)
    for number in range(1, 400):
        path = shutil.copytree(ledger.path, place / "copy")

        def work(path: Path = path, number: int = number) -> None:
            dying_at(number, after=after)
            Ledger.open(path).append(others(old, new), SIGNER)

        status = in_child(work)
        assert status in (0, DIED)
        check_after(path, old, new)
        shutil.rmtree(path)
        if status == 0:
            assert number > 20, "the append did far less than it should"
            return
    pytest.fail("the append never came through")


@pytest.mark.slow
def test_a_dead_writer_twice_in_a_row(ledger: Ledger, place: Path) -> None:
    """The recovery itself may die as well, at any operation."""
    grow(ledger, 254)

    def die(path: Path, number: int, stop: int) -> int:
        def work() -> None:
            dying_at(number, after=False)
            Ledger.open(path).append(others(254, stop), SIGNER)

        return in_child(work)

    counted = 0
    for first in (9, 21, 27, 33, 39, 42, 45, 48):
        for second in range(1, 60, 3):
            path = shutil.copytree(ledger.path, place / "copy")
            die(path, first, 530)
            survivor = Ledger.open(path).size
            die(path, second, 530)
            entries = list(Ledger.open(path).entries())
            assert entries[:254] == leaves(0, 254)
            assert len(entries) >= survivor
            Ledger.open(path).append([b"last"], SIGNER)
            assert Ledger.open(path).verify().leftovers == ()
            shutil.rmtree(path)
            counted += 1
    assert counted == 160


@pytest.mark.parametrize("whole", [False, True], ids=["torn", "garbled"])
def test_a_torn_line_in_the_history(ledger: Ledger, place: Path, whole: bool) -> None:
    """The commit itself is torn at every length; or its bytes are not those that were written."""
    grow(ledger, 3)
    done = shutil.copytree(ledger.path, place / "done")
    grow(Ledger.open(done), 4)
    line = (done / "history").read_bytes()[(ledger.path / "history").stat().st_size :]
    for length in range(len(line) + 1):
        path = shutil.copytree(done, place / "copy")
        (path / "checkpoint").write_bytes(ledger.checkpoint())
        old = (ledger.path / "history").read_bytes()
        torn = bytes(len(line[:length])) + b"\n" if whole else line[:length]
        (path / "history").write_bytes(old + torn)
        [index] = Ledger.open(path).append([b"next"], SIGNER)
        assert index == (4 if torn == line else 3)
        assert Ledger.open(path).verify().leftovers == ()
        shutil.rmtree(path)


def every_file(path: Path) -> Iterator[Path]:
    yield from sorted(item for item in path.rglob("*") if item.is_file())


@pytest.mark.slow
def test_every_file_cut_at_every_length(ledger: Ledger, place: Path) -> None:
    """Reported by verify, or it was nothing that counts; repaired, or reported by repair. Never a traceback."""
    grow(ledger, 1, 3, 6)
    checked = repaired = reported = 0
    for file in every_file(ledger.path):
        data = file.read_bytes()
        for length in range(len(data)):
            path = shutil.copytree(ledger.path, place / "copy")
            (path / file.relative_to(ledger.path)).write_bytes(data[:length])
            with pytest.raises(UcauditError):
                Ledger.open(path).verify()
            try:
                assert repair_ledger(path)
            except UcauditError:
                assert file.name == "ledger.json" or "tile" in file.parts
                reported += 1
            else:
                assert list(Ledger.open(path).entries()) == leaves(0, 6)
                assert Ledger.open(path).verify().size == 6
                repaired += 1
            checked += 1
            shutil.rmtree(path)
    assert checked > 1000
    assert repaired > 600
    assert reported > 300


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_at_every_operation(
    ledger: Ledger, place: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    grow(ledger, 254)
    for number in range(1, 400):
        path = shutil.copytree(ledger.path, place / "copy")
        count = 0

        def failing(name: str, number: int = number) -> Callable[..., Any]:
            whole = getattr(os, name)

            def operation(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    raise OSError(code, os.strerror(code))
                return whole(*args, **kwargs)

            return operation

        opened = Ledger.open(path)
        with monkeypatch.context() as patched:
            for name in ("fsync", "replace", "write", "mkdir"):
                patched.setattr(os, name, failing(name))
            try:
                opened.append(others(254, 258), SIGNER)
            except OutputError as error:
                assert error.exit_code == 4
                failed = True
            else:
                failed = False
        check_after(path, 254, 258)
        shutil.rmtree(path)
        if not failed and count < number:
            assert number > 12
            return
    pytest.fail("the append never came through")


@pytest.mark.slow
def test_a_file_system_that_really_is_full(ledger: Ledger, place: Path) -> None:
    """The kernel refuses the bytes beyond a limit, in the middle of a write (RLIMIT_FSIZE)."""
    grow(ledger, 40)
    refused = 0
    for limit in range(0, 8200, 130):
        path = shutil.copytree(ledger.path, place / "copy")

        def work(path: Path = path, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            Ledger.open(path).append(others(40, 300), SIGNER)

        status = in_child(work)
        assert status in (0, 1)
        refused += status
        check_after(path, 40, 300)
        shutil.rmtree(path)
    assert refused > 40


def test_an_older_copy_is_not_appended_to(ledger: Ledger, place: Path) -> None:
    """A checkpoint that was put back is brought forward again; a whole older copy shows by the witness's."""
    grow(ledger, 3)
    older = ledger.checkpoint()
    copy = shutil.copytree(ledger.path, place / "older")
    grow(ledger, 5)
    (ledger.path / "checkpoint").write_bytes(older)
    assert ledger.append([b"next"], SIGNER) == [5]
    assert ledger.verify().size == 6

    witness = Witness.init(place / "witness", "witness.example.com/w", SIGNER_OF_WITNESS)
    given = witness.cosign(ledger.prove_consistency(0), SIGNER_OF_WITNESS, ledger_vkey=ledger.vkey)
    attach_cosignature(ledger, given.note, [WitnessKey.parse(witness.vkey)])
    shutil.copytree(ledger.path / "cosigned", copy / "cosigned")
    with pytest.raises(UcauditError, match="a witness cosigned 6 entries, the checkpoint has 3"):
        Ledger.open(copy).append([b"another history"], SIGNER)


def test_a_repair_needs_no_key_and_invents_nothing(ledger: Ledger) -> None:
    grow(ledger, 200, 300)
    kept = ledger.checkpoint()
    assert repair_ledger(ledger.path) == []
    shutil.rmtree(ledger.path / "tile" / "1")
    (ledger.path / "tile" / "0" / "000").write_bytes(bytes(8192))
    (ledger.path / "checkpoint").write_bytes(b"")
    (ledger.path / "history").unlink()
    with pytest.raises(UcauditError, match="no signed checkpoint is left"):
        repair_ledger(ledger.path)
    (ledger.path / "checkpoint").write_bytes(kept)
    assert repair_ledger(ledger.path) == [
        "tile/0/000: computed anew from the entries",
        "tile/1/000.p/1: computed anew from the entries",
        "history: was missing, begins anew",
        "history: added the checkpoint of 300 entries",
    ]
    assert ledger.checkpoint() == kept
    assert ledger.verify().size == 300
    bundle = ledger.path / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes().replace(b"entry 7", b"Entry 7"))
    with pytest.raises(UcauditError, match="one was changed"):
        repair_ledger(ledger.path)


WORKER = """
import hashlib, os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import Ledger
key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"store tests").digest())
signer = FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))
ledger = Ledger.open(Path(sys.argv[1]))
for number in range(100000):
    name = f"{sys.argv[2]} {number}"
    batch = [f"{name} {item}".encode() for item in range(1 + number % 3)]
    for index, entry in zip(ledger.append(batch, signer), batch):
        os.write(1, f"{index} {entry.decode()}\\n".encode())  # whole or not at all, wherever the writer is killed
"""


def test_kill_9_at_random_moments(ledger: Ledger) -> None:
    """Two writers at once, killed again and again: all they acknowledged is there once, under its own index."""
    draw = random.Random(20260301)
    acknowledged: dict[int, str] = {}
    for round_number in range(8):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(ledger.path), f"{round_number}{name}"],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            for name in "ab"
        ]
        for worker in workers:
            assert worker.stdout is not None
            first = worker.stdout.readline()
            index, _, entry = first.rstrip("\n").partition(" ")
            acknowledged[int(index)] = entry
        for worker in workers:
            time.sleep(draw.uniform(0.0, 0.12))
            worker.kill()
        for worker in workers:
            assert worker.stdout is not None
            for line in worker.stdout.read().splitlines(keepends=True):
                assert line.endswith("\n"), "the acknowledgement itself is torn"
                index, _, entry = line.rstrip("\n").partition(" ")
                assert int(index) not in acknowledged
                acknowledged[int(index)] = entry
            worker.wait()
    ledger.append([b"afterwards"], SIGNER)
    entries = [item.decode() for item in ledger.entries()]
    assert {index: entries[index] for index in acknowledged} == acknowledged
    assert len(set(entries)) == len(entries) == ledger.verify().size
    assert ledger.verify().leftovers == ()
    assert len(acknowledged) >= 16


def test_registering_one_envelope_from_several_processes_is_one_entry(tmp_path: Path) -> None:
    from bundles import make_bundle, make_setting

    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle", on_ledger=False, planned=False)
    code = (
        "import sys; from pathlib import Path; from ucaudit.evidence.keys import load_signer;"
        "from ucaudit.evidence.registration import register; from ucaudit.evidence.signing import Envelope;"
        "path = Path(sys.argv[2]); sys.stdin.readline();"
        "print(register(Path(sys.argv[1]), Envelope.parse(path.read_bytes(), subject='e'), "
        "load_signer(sys.argv[3])).index)"
    )
    envelope, key = bundle / "attestation.dsse.json", tmp_path / "keys" / "signer.pem"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(setting.ledger), str(envelope), str(key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [worker.communicate("go\n", timeout=60)[0].strip() for worker in workers]
    assert outputs == ["0"] * 4
    assert Ledger.open(setting.ledger).size == 1
