"""A small ledger on disk under random use, and under every flipped bit."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import DIED, MEMORY, SIGNER, dying_at, in_child, make_signer

from ucaudit.core.errors import UcauditError
from ucaudit.evidence.ledger import (
    Ledger,
    Witness,
    WitnessKey,
    attach_cosignature,
    repair_ledger,
    verify_proof,
    witnessed_times,
)
from ucaudit.evidence.ledger.merkle import check_consistency
from ucaudit.evidence.ledger.note import SignedNote

ORIGIN = "example.com/properties"
WITNESS = make_signer(b"properties' witness")
KEY = WitnessKey.of("witness.example.com/p", WITNESS.public_key)


class LedgerMachine(RuleBasedStateMachine):
    """Append, die while appending, open again, prove, have cosigned, damage and repair, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="ucaudit-machine-", dir=MEMORY))
        self.entries: list[bytes] = []
        self.kept: list[bytes] = []
        self.roots: dict[int, bytes] = {}
        self.dead: list[bytes] = []

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize(size=st.sampled_from([0, 3, 250, 255, 256, 510]))
    def start(self, size: int) -> None:
        self.ledger = Ledger.init(self.place / "ledger", ORIGIN, SIGNER)
        self.witness = Witness.init(self.place / "witness", KEY.name, WITNESS)
        self._append([b"first %d" % number for number in range(size)])

    def _append(self, batch: list[bytes]) -> None:
        before = self.ledger.size
        indexes = self.ledger.append(batch, SIGNER)
        if not indexes:
            return
        if indexes[0] > before:  # what the dead writer had committed was brought to its end
            assert indexes[0] == before + len(self.dead)
            self.entries += self.dead
        assert indexes == list(range(len(self.entries), len(self.entries) + len(batch)))
        self.entries += batch
        self.dead = []
        self._remember()

    def _remember(self) -> None:
        head = self.ledger.head()
        self.roots[head.size] = head.root
        self.kept.append(self.ledger.checkpoint())

    @rule(batch=st.lists(st.binary(max_size=20), min_size=1, max_size=9))
    def append(self, batch: list[bytes]) -> None:
        self._append(batch)

    @precondition(lambda self: not self.dead)
    @rule(batch=st.lists(st.binary(max_size=20), min_size=1, max_size=9), number=st.integers(1, 70))
    def die(self, batch: list[bytes], number: int) -> None:
        path = self.ledger.path

        def work() -> None:
            dying_at(number, after=bool(number % 2))
            Ledger.open(path).append(batch, SIGNER)

        status = in_child(work)
        assert status in (0, DIED)
        if self.ledger.size > len(self.entries):  # published, whether it lived to say so or not
            self.entries += batch
            self._remember()
        else:
            assert status == DIED
            self.dead = batch

    @rule()
    def open_again(self) -> None:
        self.ledger = Ledger.open(self.place / "ledger")

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.entries) - 1))
        proof = self.ledger.prove(index)
        assert verify_proof(proof, self.entries[index], self.ledger.vkey).index == index

    @precondition(lambda self: self.roots)
    @rule(data=st.data())
    def consistency(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.roots)))
        head = self.ledger.head()
        check_consistency(old, head.size, self.roots[old], head.root, self.ledger.consistency(old, head.size))

    @rule()
    def cosign(self) -> None:
        known = self.witness.ledgers.get(ORIGIN)
        request = self.ledger.prove_consistency(known.size if known else 0)
        given = self.witness.cosign(request, WITNESS, ledger_vkey=self.ledger.vkey)
        size = given.time.size
        attach_cosignature(self.ledger, given.note, [KEY])
        if self.dead and self.ledger.size > len(self.entries):
            self.entries += self.dead
            self._remember()
        self.dead = []
        found = witnessed_times(self.ledger.checkpoint_at(size), self.ledger.key, [KEY])
        assert found == (given.time,)

    @precondition(lambda self: not self.dead)
    @rule(name=st.sampled_from(["checkpoint", "history", "tile/0", "tile/1"]), gone=st.booleans())
    def damage_and_repair(self, name: str, gone: bool) -> None:
        place = self.ledger.path / name
        if not place.exists():
            return
        if place.is_dir():
            shutil.rmtree(place)
        elif gone:
            place.unlink()
        else:
            place.write_bytes(place.read_bytes()[:-5])
        assert repair_ledger(self.ledger.path)

    @invariant()
    def everything_acknowledged_is_there(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert list(self.ledger.entries()) == self.entries
        try:
            summary = self.ledger.verify(since=self.kept[-1] if self.kept else None)
        except UcauditError as error:
            assert self.dead
            assert "an append was interrupted" in str(error)
        else:
            assert summary.size == len(self.entries)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


# --- every flipped bit --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Five entries under four checkpoints, one cosigned by a witness that is trusted, all files of it."""
    place = Path(tempfile.mkdtemp(prefix="ucaudit-bits-", dir=MEMORY))
    ledger = Ledger.init(place / "ledger", ORIGIN, SIGNER)
    witness = Witness.init(place / "witness", KEY.name, WITNESS)
    for size in (1, 3, 5):
        ledger.append([b"entry %d" % number for number in range(ledger.size, size)], SIGNER)
        if size == 3:
            given = witness.cosign(ledger.prove_consistency(0), WITNESS, ledger_vkey=ledger.vkey)
            attach_cosignature(ledger, given.note, [KEY])
    yield ledger.path
    shutil.rmtree(place)


def flips(path: Path) -> Iterator[tuple[Path, int]]:
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        for bit in range(8 * file.stat().st_size):
            yield file, bit


def outcome(path: Path, vkey: str) -> str:
    """``reported``, or that verify found everything as it was."""
    try:
        summary = Ledger.open(path).verify(vkey=vkey, witnesses=[KEY])
    except UcauditError as error:
        assert error.exit_code in (1, 3)
        return "reported"
    if len(summary.witnessed) < 1:
        return "the witness is not counted"
    return "unnoticed"


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_reported_or_counts_for_nothing(small: Path, step: int) -> None:
    """Every third bit reaches every byte; the slow run takes them all.

    The one thing that is not reported: a cosignature that no longer names the trusted witness."""
    vkey = Ledger.open(small).vkey
    assert outcome(small, vkey) == "unnoticed"
    found = {"reported": 0, "the witness is not counted": 0}
    for number, (file, bit) in enumerate(flips(small)):
        if number % step:
            continue
        data = file.read_bytes()
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            said = outcome(small, vkey)
            assert said != "unnoticed", f"{file} bit {bit}"
            if said == "the witness is not counted":
                assert file.parent.name == "cosigned"
                assert SignedNote.parse(bytes(changed), subject="").signatures[1].name != ""
            found[said] += 1
        finally:
            file.write_bytes(data)
    assert outcome(small, vkey) == "unnoticed"
    assert found["reported"] > 3000
    assert 0 < found["the witness is not counted"] < 600 // step


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_rubbish_in_any_file_is_reported(small: Path, seed: int) -> None:
    draw = random.Random(seed)
    files = sorted(item for item in small.rglob("*") if item.is_file() and item.stat().st_size)
    file = draw.choice(files)
    data = file.read_bytes()
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        kind, place = draw.randrange(3), draw.randrange(len(changed) + 1)
        if kind == 0:
            changed[place:place] = draw.randbytes(draw.randrange(1, 40))
        elif kind == 1:
            del changed[place : place + draw.randrange(1, 40)]
        else:
            changed[place : place + 8] = draw.randbytes(8)
        changed = changed or bytearray(b"?")
    file.write_bytes(changed)
    try:
        if bytes(changed) != data:
            assert outcome(small, Ledger.open(small).vkey) != "unnoticed"
    except UcauditError:
        pass
    finally:
        file.write_bytes(data)
