"""Keys: RFC 8032, OpenSSL, OpenSSH, and files that are something else."""

import base64
import hashlib
import importlib.util
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from ucaudit.core.errors import InputError, MalformedKeyError, MissingExtraError, NotFoundError, RefusedError
from ucaudit.evidence.keys import FileSigner, PublicKey, generate, is_encrypted, load_signer

# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature.
RFC8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), RFC8032)
def test_rfc8032(public, message, signature):
    key = PublicKey.from_raw_ed25519(bytes.fromhex(public))
    assert key.verify(bytes.fromhex(signature), bytes.fromhex(message))
    assert not key.verify(bytes.fromhex(signature), bytes.fromhex(message) + b"x")
    broken = bytearray.fromhex(signature)
    broken[0] ^= 1
    assert not key.verify(bytes(broken), bytes.fromhex(message))
    assert not key.verify(b"", bytes.fromhex(message))


@pytest.mark.parametrize("password", [None, b"correct horse"])
def test_generate_load_sign(tmp_path, password):
    private, public, key = generate(tmp_path, "signer", password=password)
    assert private.stat().st_mode & 0o777 == 0o600
    assert is_encrypted(str(private)) == (password is not None)
    signer = load_signer(str(private), password=password)
    assert signer.public_key.key_id == key.key_id == PublicKey.load(public).key_id
    assert PublicKey.load(public).verify(signer.sign(b"data"), b"data")
    assert PublicKey.from_base64(key.base64, subject="t").spki == key.spki
    with pytest.raises(RefusedError, match="never overwritten"):
        generate(tmp_path, "signer", password=None)


def test_key_id_is_what_openssl_and_sha256sum_print(tmp_path):
    _, public, key = generate(tmp_path, "k", password=None)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(der).hexdigest() == key.key_id
    assert base64.b64decode(key.hint) == hashlib.sha256(der).digest()


def test_wrong_and_missing_passwords(tmp_path):
    private, _, _ = generate(tmp_path, "k", password=b"right")
    with pytest.raises(MalformedKeyError, match="encrypted"):
        load_signer(str(private))
    with pytest.raises(MalformedKeyError, match="wrong password"):
        load_signer(str(private), password=b"wrong")
    plain, _, _ = generate(tmp_path, "plain", password=None)
    with pytest.raises(MalformedKeyError, match="no password"):
        load_signer(str(plain), password=b"x")


# Made with: ssh-keygen -t ed25519 -N pw. A key for this test alone.
ENCRYPTED_OPENSSH = """\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABBgE1DFp3
fz+R0c4PfazKB+AAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIDCkuV/t1zg3BWvx
VDiedqP3rLT2SeDLRhOZbCO7t7j9AAAAkKm8fASvy3t3u+weh4qCqC5T+9mZvIV5QQuDzI
u4iVGJ0Jf/eoq3uk6Mk/9cemNMbBt/lpDd9XehZD3V2yDGFnj7BUrEiEsnelgANDKGZWas
+7ui4MhH4UzW96MJ5jFx4y/C6tFv5XCQWEuima++tYH5uYFL78sBqlMVxUnrUwAG5NIB1P
7bmSKlM1lsO1gtTw==
-----END OPENSSH PRIVATE KEY-----
"""
ENCRYPTED_OPENSSH_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDCkuV/t1zg3BWvxVDiedqP3rLT2SeDLRhOZbCO7t7j9 test"


def test_encrypted_openssh_key(tmp_path):
    path, public = tmp_path / "id", tmp_path / "id.pub"
    path.write_text(ENCRYPTED_OPENSSH)
    public.write_text(ENCRYPTED_OPENSSH_PUBLIC)
    assert is_encrypted(str(path))
    with pytest.raises(MalformedKeyError, match="encrypted"):
        load_signer(str(path))
    if importlib.util.find_spec("bcrypt") is None:
        with pytest.raises(MissingExtraError, match="bcrypt") as caught:
            load_signer(str(path), password=b"pw")
        assert "ucaudit[ssh]" in caught.value.hint
    else:
        assert load_signer(str(path), password=b"pw").public_key.key_id == PublicKey.load(public).key_id


def test_openssh_keys(tmp_path):
    raw = Ed25519PrivateKey.generate()
    algorithm = serialization.NoEncryption()
    path = tmp_path / "id_ed25519"
    path.write_bytes(raw.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, algorithm))
    public = tmp_path / "id_ed25519.pub"
    public.write_bytes(
        raw.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    assert not is_encrypted(str(path))
    assert load_signer(str(path)).public_key.key_id == PublicKey.load(public).key_id


def test_key_from_the_environment(tmp_path, monkeypatch):
    private, _, key = generate(tmp_path, "k", password=None)
    monkeypatch.setenv("SIGNING_KEY", private.read_text())
    assert load_signer("env:SIGNING_KEY").public_key.key_id == key.key_id
    with pytest.raises(InputError, match="not set"):
        load_signer("env:ABSENT_KEY")
    with pytest.raises(InputError, match="not set"):
        is_encrypted("env:ABSENT_KEY")
    # Some CI systems keep a text of several lines in one, with the line ends spelt out.
    monkeypatch.setenv("SIGNING_KEY", private.read_text().replace("\n", "\\n"))
    assert load_signer("env:SIGNING_KEY").public_key.key_id == key.key_id
    assert not is_encrypted("env:SIGNING_KEY")
    monkeypatch.setenv("SIGNING_KEY", ENCRYPTED_OPENSSH)
    assert is_encrypted("env:SIGNING_KEY")


def test_p256_is_verified_and_does_not_sign(tmp_path):
    raw = ec.generate_private_key(ec.SECP256R1())
    pem = raw.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "k.pub").write_bytes(pem)
    key = PublicKey.load(tmp_path / "k.pub")
    assert key.algorithm == "ecdsa-p256"
    assert key.verify(raw.sign(b"data", ec.ECDSA(SHA256())), b"data")
    private = raw.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "k.pem").write_bytes(private)
    with pytest.raises(MalformedKeyError, match="not an Ed25519"):
        load_signer(str(tmp_path / "k.pem"))


def test_files_that_are_no_keys(tmp_path):
    private, public, _ = generate(tmp_path, "k", password=None)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(MalformedKeyError, match="not a private key"):
        load_signer(str(tmp_path / "text"))
    with pytest.raises(MalformedKeyError) as caught:
        load_signer(str(public))
    assert "public key" in caught.value.hint
    with pytest.raises(MalformedKeyError) as caught:
        PublicKey.load(private)
    assert "private key" in caught.value.hint
    with pytest.raises(NotFoundError):
        load_signer(str(tmp_path / "absent"))
    big = rsa.generate_private_key(65537, 2048).public_key()
    pem = big.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pub").write_bytes(pem)
    with pytest.raises(MalformedKeyError, match="unsupported"):
        PublicKey.load(tmp_path / "rsa.pub")
    with pytest.raises(MalformedKeyError):
        PublicKey.from_raw_ed25519(b"short")


def test_signer_is_a_plain_interface(tmp_path):
    signer = FileSigner(Ed25519PrivateKey.generate(), PublicKey.from_raw_ed25519(bytes.fromhex(RFC8032[0][0])))
    assert len(signer.sign(b"")) == 64
