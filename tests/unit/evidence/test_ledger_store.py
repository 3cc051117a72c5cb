"""The ledger on disk: what it acknowledges stays, and what was damaged is reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import ORIGIN, SIGNER, grow, leaves, make_signer

from ucaudit.core.errors import (
    InputError,
    LedgerInconsistentError,
    MalformedRecordError,
    NotFoundError,
    OutputError,
    RefusedError,
    UnsupportedSchemaError,
)
from ucaudit.evidence.ledger import Ledger, verify_proof
from ucaudit.evidence.ledger.merkle import check_consistency


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.init(tmp_path / "ledger", ORIGIN, SIGNER)


def files_of(ledger: Ledger) -> set[str]:
    return {str(item.relative_to(ledger.path)) for item in ledger.path.rglob("*") if item.is_file()}


def test_an_empty_ledger(ledger: Ledger) -> None:
    assert (ledger.origin, ledger.size, list(ledger.entries())) == (ORIGIN, 0, [])
    assert ledger.verify().size == 0
    assert ledger.append([], SIGNER) == []
    assert files_of(ledger) == {"checkpoint", "history", "ledger.json", "ledger.lock"}
    for index in (-1, 0):
        with pytest.raises(RefusedError, match="no entry") as caught:
            ledger.prove(index)
        assert caught.value.hint == "it is empty"


def test_an_index_past_the_end_is_told_where_the_end_is(ledger: Ledger) -> None:
    grow(ledger, 3)
    with pytest.raises(RefusedError, match="no entry 99: the ledger has 3") as caught:
        ledger.prove(99)
    assert caught.value.hint == "entries are counted from 0: the last is 2"
    with pytest.raises(RefusedError, match="no checkpoint of 2 entries") as caught:
        ledger.checkpoint_at(2)
    assert caught.value.hint is not None and caught.value.hint.startswith("the ledger has 3 entries")


def test_the_layout_is_that_of_tlog_tiles(ledger: Ledger) -> None:
    grow(ledger, 3, 255, 256, 300)
    assert files_of(ledger) == {
        "checkpoint",
        "history",
        "ledger.json",
        "ledger.lock",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    }
    assert (ledger.path / "tile/0/000").stat().st_size == 256 * 32
    assert json.loads((ledger.path / "ledger.json").read_bytes()) == {
        "format": "ucaudit-ledger",
        "version": 1,
        "origin": ORIGIN,
        "vkey": ledger.vkey,
    }


def test_partial_tiles_of_every_checkpoint_stay_until_the_full_one(ledger: Ledger) -> None:
    grow(ledger, 1, 2, 7)
    assert {f"tile/0/000.p/{width}" for width in (1, 2, 7)} <= files_of(ledger)
    grow(ledger, 256)
    assert not (ledger.path / "tile/0/000.p").exists()


def test_reopened_it_is_the_same(ledger: Ledger) -> None:
    grow(ledger, 5)
    again = Ledger.open(ledger.path)
    assert again.append([b"entry 5"], SIGNER) == [5]
    assert list(again.entries()) == leaves(0, 6)
    assert again.entry(5) == b"entry 5"
    assert ledger.size == 6


def test_every_checkpoint_is_extended_by_every_later_one(ledger: Ledger) -> None:
    kept = [(0, ledger.head().root, ledger.checkpoint())]
    for size in (1, 2, 3, 8, 255, 256, 257, 513):
        grow(ledger, size)
        kept.append((size, ledger.head().root, ledger.checkpoint()))
    last_size, last_root, _ = kept[-1]
    for size, root, note in kept:
        check_consistency(size, last_size, root, last_root, ledger.consistency(size, last_size))
        assert ledger.verify(since=note).since == size
    with pytest.raises(RefusedError):
        ledger.consistency(0, 514)
    with pytest.raises(RefusedError):
        ledger.consistency(5, 4)


def test_the_largest_entry_fits_and_one_more_byte_does_not(ledger: Ledger) -> None:
    assert ledger.append([b"x" * 65_535, b""], SIGNER) == [0, 1]
    with pytest.raises(RefusedError, match="65536 bytes"):
        ledger.append([b"x" * 65_536], SIGNER)
    assert [len(entry) for entry in ledger.entries()] == [65_535, 0]
    assert verify_proof(ledger.prove(0), None, ledger.vkey).leaf == b"x" * 65_535


def test_only_its_own_key_signs_it(ledger: Ledger) -> None:
    with pytest.raises(RefusedError, match="this ledger is signed by"):
        ledger.append([b"entry"], make_signer(b"another"))
    assert ledger.size == 0


# --- starting and opening -----------------------------------------------------------------------------
def test_it_does_not_start_where_something_is(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not empty"):
        Ledger.init(ledger.path, ORIGIN, SIGNER)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter.txt").write_text("dear")
    with pytest.raises(RefusedError, match="not empty"):
        Ledger.init(tmp_path / "used", ORIGIN, SIGNER)
    assert [item.name for item in (tmp_path / "used").iterdir()] == ["letter.txt"]
    with pytest.raises(OutputError):
        Ledger.init(tmp_path / "used" / "letter.txt", ORIGIN, SIGNER)
    assert ledger.verify().size == 0


def test_an_interrupted_start_can_be_repeated(ledger: Ledger) -> None:
    (ledger.path / "checkpoint").unlink()
    assert Ledger.init(ledger.path, ORIGIN, SIGNER).size == 0


def test_what_is_no_ledger(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotFoundError, match="not a ledger"):
            Ledger.open(path)


SETTINGS_CASES: dict[str, tuple[Callable[[dict[str, object]], object], type[Exception]]] = {
    "another format": (lambda s: {**s, "format": "diary"}, MalformedRecordError),
    "a later version": (lambda s: {**s, "version": 2}, UnsupportedSchemaError),
    "an unknown member": (lambda s: {**s, "extra": 1}, MalformedRecordError),
    "no verifier key": (lambda s: {k: v for k, v in s.items() if k != "vkey"}, MalformedRecordError),
    "a key that is no text": (lambda s: {**s, "vkey": 1}, MalformedRecordError),
    "another origin": (lambda s: {**s, "origin": "example.com/other"}, InputError),
    "a list": (lambda s: [s], MalformedRecordError),
}


@pytest.mark.parametrize("case", SETTINGS_CASES)
def test_settings_that_are_none(ledger: Ledger, case: str) -> None:
    change, error = SETTINGS_CASES[case]
    place = ledger.path / "ledger.json"
    place.write_text(json.dumps(change(json.loads(place.read_text()))))
    with pytest.raises(error):
        Ledger.open(ledger.path)


def test_an_unwritable_directory(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    (ledger.path / "ledger.lock").unlink()
    (ledger.path / "ledger.lock").mkdir()
    with pytest.raises(OutputError, match="cannot lock"):
        ledger.append([b"entry"], SIGNER)


# --- damage -------------------------------------------------------------------------------------------
DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-40] + _flip(path.read_bytes()[-40:])),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


def _flip(data: bytes) -> bytes:
    return data[:3] + bytes([data[3] ^ 1]) + data[4:]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger"
    grow(Ledger.init(path, ORIGIN, SIGNER), 200, 300, 310)
    return path


NEEDED = (
    "checkpoint",
    "history",
    "ledger.json",
    "tile/0/000",
    "tile/0/001.p/54",
    "tile/1/000.p/1",
    "tile/entries/000",
    "tile/entries/001.p/54",
)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NEEDED)
def test_damage_is_reported(sound: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = shutil.copytree(sound, tmp_path / "ledger")
    DAMAGE[damage](path / name)
    with pytest.raises((LedgerInconsistentError, InputError)) as caught:
        Ledger.open(path).verify()
    assert caught.value.subject is not None
    assert caught.value.exit_code in (1, 3)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [name for name in NEEDED if name != "tile/entries/000" and name != "tile/0/000"])
def test_nothing_is_signed_on_a_damaged_edge(sound: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = shutil.copytree(sound, tmp_path / "ledger")
    DAMAGE[damage](path / name)
    before = (path / "checkpoint").read_bytes() if (path / "checkpoint").is_file() else None
    if (name, damage) == ("history", "a byte longer"):  # what a torn write of an unacknowledged line leaves
        assert Ledger.open(path).append([b"entry"], SIGNER) == [310]
        assert Ledger.open(path).verify().checkpoints == 5
        return
    with pytest.raises((LedgerInconsistentError, InputError)):
        Ledger.open(path).append([b"entry"], SIGNER)
    assert before == ((path / "checkpoint").read_bytes() if (path / "checkpoint").is_file() else None)


def test_what_older_checkpoints_left_behind_is_not_needed(sound: Path, tmp_path: Path) -> None:
    path = shutil.copytree(sound, tmp_path / "ledger")
    shutil.rmtree(path / "tile/0/001.p")
    (path / "tile/0/001.p").mkdir()
    shutil.copy(sound / "tile/0/001.p/54", path / "tile/0/001.p/54")
    (path / "ledger.lock").unlink()
    assert Ledger.open(path).verify().size == 310


def test_a_reader_falls_back_to_the_full_tile(sound: Path, tmp_path: Path) -> None:
    """A checkpoint of 310 entries whose partial files have just been replaced by full ones."""
    path = shutil.copytree(sound, tmp_path / "ledger")
    old = (path / "checkpoint").read_bytes()
    grow(Ledger.open(path), 512)
    assert not (path / "tile/0/001.p").exists()
    (path / "checkpoint").write_bytes(old)
    reader = Ledger.open(path)
    with pytest.raises(LedgerInconsistentError, match="an older checkpoint was put back"):
        reader.verify()
    assert list(reader.entries()) == leaves(0, 310)
    assert verify_proof(reader.prove(309), b"entry 309", reader.vkey).size == 310


def test_rewritten_history_contradicts_a_kept_checkpoint(ledger: Ledger, tmp_path: Path) -> None:
    grow(ledger, 40)
    kept = ledger.checkpoint()
    forged = Ledger.init(tmp_path / "forged", ORIGIN, SIGNER)
    forged.append([*leaves(0, 17), b"a better result", *leaves(18, 60)], SIGNER)
    assert forged.verify().size == 60  # it agrees with itself
    with pytest.raises(LedgerInconsistentError, match="history was rewritten"):
        forged.verify(since=kept)
    short = Ledger.init(tmp_path / "short", ORIGIN, SIGNER)
    short.append(leaves(0, 39), SIGNER)
    with pytest.raises(LedgerInconsistentError, match="entries were removed"):
        short.verify(since=kept)
    short.append([b"another 40th"], SIGNER)
    with pytest.raises(LedgerInconsistentError, match="two different trees of 40 entries"):
        short.verify(since=kept)


def test_another_key_in_the_settings_is_caught_only_by_a_pinned_key(ledger: Ledger, tmp_path: Path) -> None:
    grow(ledger, 3)
    other = Ledger.init(tmp_path / "other", ORIGIN, make_signer(b"impostor"))
    assert other.verify().pinned is False
    with pytest.raises(LedgerInconsistentError, match="the ledger's verifier key is"):
        other.verify(vkey=ledger.vkey)
    with pytest.raises(LedgerInconsistentError, match="no signature by"):
        other.verify(since=ledger.checkpoint())
    assert ledger.verify(vkey=ledger.vkey).pinned is True


# --- several processes --------------------------------------------------------------------------------
WORKER = """
import hashlib, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import Ledger
key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"store tests").digest())
signer = FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))
ledger = Ledger.open(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(20):
    name = f"{sys.argv[2]} {number}".encode()
    [index] = ledger.append([name], signer)
    print(index, flush=True)
"""


def test_nothing_is_lost_when_processes_append_at_once(ledger: Ledger) -> None:
    grow(ledger, 240)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(ledger.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for name in ("first", "second")
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    while any(worker.poll() is None for worker in workers):
        head = ledger.head()  # a reader meanwhile sees whole checkpoints only
        index = head.size - 1
        assert verify_proof(ledger.prove(index), None, ledger.vkey).index == index
    outputs = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    entries = list(ledger.entries())
    assert ledger.verify().size == len(entries) == 280
    for name, indices in zip(("first", "second"), outputs, strict=True):
        assert [entries[int(index)] for index in indices] == [f"{name} {n}".encode() for n in range(20)]
