"""OpenSSH allowed_signers files: what carries over, what is left out, and what is refused."""

import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ucaudit.core.errors import MalformedPolicyError
from ucaudit.evidence.keys import PublicKey, generate
from ucaudit.evidence.trust import DEFAULT_PREDICATES, add_key, load_trust, revoke
from ucaudit.evidence.trust.allowed_signers import parse_allowed_signers, write_allowed_signers

ATTESTATION = "urn:ucaudit:predicate:attestation:v1"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("keys"), "k", password=None)[2]


def parse(text, **options):
    arguments = {"roles": (), "predicate_types": None, "subject": "signers"} | options
    return parse_allowed_signers(text.encode(), **arguments)


def test_round_trip(tmp_path, key):
    path = tmp_path / "trust.toml"
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = PublicKey.from_spki(p256.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), subject="t")
    add_key(
        path,
        key,
        "alice@tests.invalid",
        roles=["developer"],
        predicate_types=["attestation", "plan"],
        valid_from="2026-01-01T00:00:00Z",
        valid_until="2027-12-31T23:59:59Z",
    )
    add_key(path, other, "Bob B. Bobson", roles=["validator"])
    keys = load_trust(path).keys
    text, skipped = write_allowed_signers(keys)
    assert skipped == []
    again, skipped = parse(text, roles=["developer"])
    assert skipped == []
    assert [(e.principal, e.key.key_id, e.predicate_types, e.validity) for e in again] == [
        (e.principal, e.key.key_id, e.predicate_types, e.validity) for e in keys
    ]
    assert write_allowed_signers(again)[0] == text
    assert again[0].roles == ("developer",)


def test_a_revoked_key_and_odd_principals_are_left_out(tmp_path, key):
    path = tmp_path / "trust.toml"
    add_key(path, key, "alice", roles=[])
    revoke(path, "key", 0, at="2026-01-01T00:00:00Z", reason="stolen")
    for number, name in enumerate(("*", "a,b", "!a", 'q"q', "#x", "tab\tx")):
        add_key(path, generate(tmp_path, f"k{number}", password=None)[2], name, roles=[])
    text, skipped = write_allowed_signers(load_trust(path).keys)
    assert [line for line in text.splitlines() if not line.startswith("#")] == []
    assert len(skipped) == 7
    assert "stolen" in skipped[0].reason


def test_namespaces_become_predicate_types(key):
    line = f'a namespaces="git,{ATTESTATION}" {key.openssh()} comment words'
    (entry,), _ = parse(line)
    assert entry.predicate_types == ("attestation",)
    (entry,), _ = parse(f"a {key.openssh()}")
    assert entry.predicate_types == DEFAULT_PREDICATES
    found, skipped = parse(f'a namespaces="git,file" {key.openssh()}')
    assert found == []
    assert "other namespaces (git,file)" in skipped[0].reason
    (entry,), _ = parse(f'a namespaces="git" {key.openssh()}', predicate_types=["bundle"])
    assert entry.predicate_types == ("bundle",)


def test_times(key, monkeypatch):
    (entry,), _ = parse(f'a valid-after="20260131",valid-before="20260201093015Z" {key.openssh()}')
    assert entry.validity.valid_until == datetime(2026, 2, 1, 9, 30, 15, tzinfo=UTC)
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        (entry,), _ = parse(f'a valid-after="202601310000" {key.openssh()}')
        assert entry.validity.valid_from == datetime(2026, 1, 30, 22, tzinfo=UTC)
        (entry,), _ = parse(f'a valid-after="202601310000Z" {key.openssh()}')
        assert entry.validity.valid_from == datetime(2026, 1, 31, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("a cert-authority {key}", "certificate authority"),
        ("*@x.invalid {key}", "pattern"),
        ("a,b {key}", "several principals"),
        ("a sk-ssh-ed25519@openssh.com AAAA", "type sk-ssh-ed25519"),
        ("a {rsa}", "type ssh-rsa"),
    ],
)
def test_lines_that_are_skipped(key, form, reason):
    big = rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    found, skipped = parse("# comment\n\n" + form.format(key=key.openssh(), rsa=big.decode()))
    assert found == []
    assert skipped[0].what == "line 3"
    assert reason in skipped[0].reason


def test_the_same_key_twice_is_taken_once(key):
    found, skipped = parse(f"a {key.openssh()}\nb {key.openssh()}")
    assert [entry.principal for entry in found] == ["a"]
    assert "earlier line" in skipped[0].reason


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("alone", "no key"),
        ("a ssh-ed25519", "no key"),
        ("a ssh-ed25519 %%%", "not a public key"),
        ("a ssh-ed25519 AAAA", "not a public key"),
        ('a namespace="x" {key}', "unknown option 'namespace'"),
        ('a namespaces="x {key}', "malformed option"),
        ('a namespaces="x"namespaces="y" {key}', "malformed options"),
        ('a namespaces="x",namespaces="y" {key}', "malformed option 'namespaces'"),
        ("a namespaces {key}", "malformed option 'namespaces'"),
        ('a cert-authority="x" {key}', "malformed option 'cert-authority'"),
        ('a valid-after="soon" {key}', "not a time"),
        ('a valid-after="20260230" {key}', "not a time"),
        ('a valid-after="2026013" {key}', "not a time"),
    ],
)
def test_lines_that_are_not_in_the_format(key, form, reason):
    with pytest.raises(MalformedPolicyError, match=reason) as caught:
        parse(form.format(key=key.openssh()))
    assert "signers: line 1" in str(caught.value)


def test_files_that_are_no_text(key):
    with pytest.raises(MalformedPolicyError, match="not utf-8"):
        parse_allowed_signers(b"\xff\xfe", roles=(), predicate_types=None, subject="t")
    with pytest.raises(MalformedPolicyError, match="more than"):
        parse("\n" * 10_001)
