"""OpenSSH reads our allowed_signers; its signatures verify under keys that we imported from its own files."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from ucaudit.evidence.keys import PublicKey, load_signer
from ucaudit.evidence.trust import add_key, add_keys, load_trust
from ucaudit.evidence.trust.allowed_signers import parse_allowed_signers, write_allowed_signers

pytestmark = pytest.mark.oracle
NAMESPACE = "urn:ucaudit:predicate:attestation:v1"


@pytest.fixture(scope="module")
def ssh_keygen(absent):
    return shutil.which("ssh-keygen") or absent("ssh-keygen (Debian: openssh-client)")


def run(*words, data=None):
    return subprocess.run([str(word) for word in words], input=data, capture_output=True, timeout=60, check=False)


@pytest.fixture(params=["ed25519", "ecdsa"])
def identity(request, ssh_keygen, tmp_path):
    """A key that OpenSSH made."""
    path = tmp_path / "id"
    done = run(ssh_keygen, "-q", "-t", request.param, "-b", "256", "-N", "", "-C", "a comment", "-f", path)
    assert done.returncode == 0, done.stderr
    return path


def signed(ssh_keygen, identity, tmp_path, namespace=NAMESPACE):
    message = tmp_path / "message"
    message.write_bytes(b"to be signed\n")
    done = run(ssh_keygen, "-Y", "sign", "-f", identity, "-n", namespace, message)
    assert done.returncode == 0, done.stderr
    return message, tmp_path / "message.sig"


def verified(ssh_keygen, tmp_path, text, principal, namespace=NAMESPACE, when=None):
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(text)
    words = [ssh_keygen, "-Y", "verify", "-f", allowed, "-I", principal, "-n", namespace]
    words += ["-s", tmp_path / "message.sig"]
    words += ["-O", f"verify-time={when:%Y%m%d%H%M%SZ}"] if when else []
    return run(*words, data=(tmp_path / "message").read_bytes()).returncode == 0


def trust_of(identity, tmp_path, principal, **window):
    path = tmp_path / "trust.toml"
    key = PublicKey.load(identity.with_suffix(".pub"))
    add_key(path, key, principal, roles=["developer"], predicate_types=["attestation"], **window)
    return path


@pytest.mark.parametrize("principal", ["alice@tests.invalid", "Alice A. Example"])
def test_openssh_accepts_what_we_export(ssh_keygen, identity, tmp_path, principal):
    signed(ssh_keygen, identity, tmp_path)
    text, skipped = write_allowed_signers(load_trust(trust_of(identity, tmp_path, principal)).keys)
    assert skipped == []
    assert verified(ssh_keygen, tmp_path, text, principal)
    assert not verified(ssh_keygen, tmp_path, text, "mallory@tests.invalid")
    found = run(
        ssh_keygen, "-Y", "find-principals", "-f", tmp_path / "allowed_signers", "-s", tmp_path / "message.sig"
    )
    assert found.stdout.decode().strip() == principal


def test_record_types_are_namespaces_and_not_commits(ssh_keygen, identity, tmp_path):
    signed(ssh_keygen, identity, tmp_path, namespace="git")
    keys = load_trust(trust_of(identity, tmp_path, "alice")).keys
    assert not verified(ssh_keygen, tmp_path, write_allowed_signers(keys)[0], "alice", namespace="git")
    wider, _ = write_allowed_signers(keys, namespaces=["git"])
    assert verified(ssh_keygen, tmp_path, wider, "alice", namespace="git")


def test_windows_mean_the_same(ssh_keygen, identity, tmp_path):
    signed(ssh_keygen, identity, tmp_path)
    start, end = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 6, 7, 8, 9, 10, tzinfo=UTC)
    window = {"valid_from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "valid_until": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    (entry,) = load_trust(trust_of(identity, tmp_path, "alice", **window)).keys
    text, _ = write_allowed_signers([entry])
    second = timedelta(seconds=1)
    for when in (start - second, start, end, end + second):
        ours = entry.objection("attestation", when, when) is None
        assert verified(ssh_keygen, tmp_path, text, "alice", when=when) == ours, when


def test_round_trip_through_openssh(ssh_keygen, identity, tmp_path):
    """ssh's file → trust file → our export → ssh verifies; and the key signs and verifies here."""
    line = f'alice@tests.invalid namespaces="{NAMESPACE}",valid-before="20991231Z" '
    original = line + identity.with_suffix(".pub").read_text()
    signed(ssh_keygen, identity, tmp_path)
    assert verified(ssh_keygen, tmp_path, original, "alice@tests.invalid")
    keys, skipped = parse_allowed_signers(
        original.encode(), roles=["developer"], predicate_types=None, subject="allowed_signers"
    )
    assert skipped == []
    trust = tmp_path / "trust.toml"
    add_keys(trust, keys)
    (entry,) = load_trust(trust).keys
    assert entry.predicate_types == ("attestation",)
    text, _ = write_allowed_signers([entry])
    assert verified(ssh_keygen, tmp_path, text, "alice@tests.invalid")
    if entry.key.algorithm == "ed25519":
        signer = load_signer(str(identity))
        assert entry.key.verify(signer.sign(b"data"), b"data")


def test_an_encrypted_openssh_key_signs(ssh_keygen, tmp_path):
    path = tmp_path / "id"
    assert run(ssh_keygen, "-q", "-t", "ed25519", "-N", "a password", "-f", path).returncode == 0
    signer = load_signer(str(path), password=b"a password")
    assert PublicKey.load(path.with_suffix(".pub")).verify(signer.sign(b"data"), b"data")
