"""Merkle trees, proofs and stored ledgers against a naive reference, and against every small change."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import Ledger, ledger_entry, verify_proof
from ucaudit.evidence.ledger.merkle import (
    check_consistency,
    check_inclusion,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    tree_root,
)
from ucaudit.evidence.ledger.note import VerifierKey

LIMIT = 600
LEAVES = [b"leaf %d" % number for number in range(LIMIT)]
HASHES = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in LEAVES]
SIZES = st.integers(1, LIMIT)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def read(level: int, index: int) -> bytes:
    """A hash reader that computes from the leaves."""
    return naive_root(LEAVES[index << level : (index + 1) << level])


def make_signer(seed: bytes) -> FileSigner:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


@given(st.integers(0, LIMIT))
@settings(max_examples=40, deadline=None)
def test_roots_are_those_of_the_definition(size: int) -> None:
    assert tree_root(size, read) == naive_root(LEAVES[:size])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_inclusion_proof_holds_and_no_other_does(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    index = data.draw(st.integers(0, size - 1))
    root = naive_root(LEAVES[:size])
    proof = inclusion_proof(index, size, read)
    assert len(proof) <= (size - 1).bit_length()
    check_inclusion(index, size, HASHES[index], proof, root)
    wrong_index = data.draw(st.integers(0, size + 3).filter(lambda i: i != index))
    with pytest.raises(LedgerInconsistentError):
        check_inclusion(wrong_index, size, HASHES[index], proof, root)
    with pytest.raises(LedgerInconsistentError):
        check_inclusion(index, size, hash_leaf(b"another"), proof, root)
    with pytest.raises(LedgerInconsistentError):
        check_inclusion(index, size, HASHES[index], [*proof, root], root)
    if proof:
        with pytest.raises(LedgerInconsistentError):
            check_inclusion(index, size, HASHES[index], proof[:-1], root)
        place = data.draw(st.integers(0, len(proof) - 1))
        bad = [*proof[:place], hash_leaf(proof[place]), *proof[place + 1 :]]
        with pytest.raises(LedgerInconsistentError):
            check_inclusion(index, size, HASHES[index], bad, root)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_consistency_proof_holds_and_no_other_does(data: st.DataObject) -> None:
    new = data.draw(SIZES)
    old = data.draw(st.integers(0, new))
    old_root, new_root = naive_root(LEAVES[:old]), naive_root(LEAVES[:new])
    proof = consistency_proof(old, new, read)
    check_consistency(old, new, old_root, new_root, proof)
    other = hash_leaf(b"another")
    with pytest.raises(LedgerInconsistentError):
        check_consistency(old, new, other, new_root, proof)
    if old:
        with pytest.raises(LedgerInconsistentError):
            check_consistency(old, new, old_root, other, proof)
    with pytest.raises(LedgerInconsistentError):
        check_consistency(old, new, old_root, new_root, [*proof, other])
    if old < new:
        with pytest.raises(LedgerInconsistentError):
            check_consistency(new, old, new_root, old_root, proof)
    if proof:
        with pytest.raises(LedgerInconsistentError):
            check_consistency(old, new, old_root, new_root, proof[1:])
        place = data.draw(st.integers(0, len(proof) - 1))
        bad = [*proof[:place], other, *proof[place + 1 :]]
        with pytest.raises(LedgerInconsistentError):
            check_consistency(old, new, old_root, new_root, bad)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
@settings(max_examples=12, deadline=None)
def test_stored_trees_do_not_depend_on_how_entries_were_batched(batches: list[int], data: st.DataObject) -> None:
    batches = batches[: 1 + next((i for i in range(len(batches)) if sum(batches[: i + 2]) > LIMIT), len(batches))]
    size = sum(batches)
    signer = make_signer(b"properties")
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger.init(Path(directory) / "ledger", "example.com/p", signer)
        done = 0
        for count in batches:
            assert ledger.append(LEAVES[done : done + count], signer) == list(range(done, done + count))
            done += count
        assert ledger.head().root == naive_root(LEAVES[:size])
        assert list(ledger.entries()) == LEAVES[:size]
        assert ledger.verify().size == size
        index = data.draw(st.integers(0, size - 1))
        assert verify_proof(ledger.prove(index), LEAVES[index], ledger.vkey).index == index
        old = data.draw(st.integers(0, size))
        check_consistency(old, size, naive_root(LEAVES[:old]), ledger.head().root, ledger.consistency(old, size))


LEAF = ledger_entry(
    "attestation",
    "1" * 64,
    "urn:ucaudit:predicate:attestation:v1",
    "2026-03-01T12:00:00Z",
    pack_digest="2" * 64,
    determination="fail",
)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, str]:
    """A proof, the checkpoint in it, and the verifier key."""
    signer = make_signer(b"flips")
    ledger = Ledger.init(tmp_path_factory.mktemp("flips") / "ledger", "example.com/flips", signer)
    ledger.append([*LEAVES[:5], LEAF, *LEAVES[5:11]], signer)
    return ledger.prove(5), ledger.checkpoint(), ledger.vkey


FINDINGS = (LedgerInconsistentError, MalformedRecordError)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_any_changed_byte_of_a_proof_is_refused(proven: tuple[bytes, bytes, str], data: st.DataObject) -> None:
    proof, _, vkey = proven
    assert verify_proof(proof, LEAF, vkey).leaf == LEAF
    place = data.draw(st.integers(0, len(proof) - 1))
    changed = bytearray(proof)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FINDINGS):
        verify_proof(bytes(changed), LEAF, vkey)
    with pytest.raises(FINDINGS):
        verify_proof(bytes(changed), None, vkey)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_of_a_checkpoint_is_refused(proven: tuple[bytes, bytes, str], data: st.DataObject) -> None:
    _, note, vkey = proven
    key = VerifierKey.parse(vkey)
    assert key.open(note, subject="checkpoint").size == 12
    place = data.draw(st.integers(0, len(note) - 1))
    changed = bytearray(note)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FINDINGS):
        key.open(bytes(changed), subject="checkpoint")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_changed_byte_of_the_leaf_is_refused(proven: tuple[bytes, bytes, str], data: st.DataObject) -> None:
    proof, _, vkey = proven
    changed = bytearray(LEAF)
    changed[data.draw(st.integers(0, len(LEAF) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LedgerInconsistentError):
        verify_proof(proof, bytes(changed), vkey)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_malformed_input(data: bytes) -> None:
    key = VerifierKey.of("example.com/flips", make_signer(b"flips").public_key)
    with pytest.raises(MalformedRecordError):
        key.open(data, subject="checkpoint")
    with pytest.raises(MalformedRecordError):
        verify_proof(data, b"", key.encode())
