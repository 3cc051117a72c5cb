"""Public keys, private keys, and the :class:`Signer` that everything signs through.

Ed25519 signs; ECDSA P-256 (SHA-256) is verified as well. A public key file is SPKI PEM (``.pub``), a private
one PKCS#8 PEM, encrypted or not; OpenSSH private keys are accepted. A key's id is the SHA-256 of its DER SPKI
in hex, so ``openssl pkey -pubin -in key.pub -outform DER | sha256sum`` prints it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import InputError, MalformedKeyError, RefusedError, missing_extra
from ucaudit.core.files import make_directory, read_limited, write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_MAX_KEY_FILE = 1 << 16
_ENVIRONMENT_PREFIX = "env:"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A verification key."""

    algorithm: str
    """``"ed25519"`` or ``"ecdsa-p256"``."""
    spki: bytes
    """DER SubjectPublicKeyInfo."""
    _key: Ed25519PublicKey | EllipticCurvePublicKey

    @classmethod
    def from_spki(cls, der: bytes, *, subject: str) -> PublicKey:
        """Read DER SPKI. Raises MalformedKeyError for anything but Ed25519 and P-256."""
        try:
            key = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedKeyError("not a public key in SPKI form", subject=subject) from error
        if isinstance(key, Ed25519PublicKey):
            algorithm = "ed25519"
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            algorithm = "ecdsa-p256"
        else:
            raise MalformedKeyError(
                "unsupported key type", subject=subject, hint="use Ed25519 (ucaudit keygen) or P-256"
            )
        canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if canonical != der:
            raise MalformedKeyError("the SPKI is not canonically encoded", subject=subject)
        return cls(algorithm, der, key)

    @classmethod
    def from_raw_ed25519(cls, raw: bytes) -> PublicKey:
        """From the 32 raw bytes of RFC 8032. Raises MalformedKeyError."""
        try:
            key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise MalformedKeyError(f"an Ed25519 public key has 32 bytes, found {len(raw)}") from error
        return cls("ed25519", _spki_of(key), key)

    @classmethod
    def from_base64(cls, text: str, *, subject: str) -> PublicKey:
        """From base64 of the DER SPKI, as trust files hold it. Raises MalformedKeyError."""
        try:
            der = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise MalformedKeyError("the public key is not base64", subject=subject) from error
        return cls.from_spki(der, subject=subject)

    @classmethod
    def from_openssh(cls, line: str, *, subject: str) -> PublicKey:
        """From ``ssh-ed25519 AAAA…`` or ``ecdsa-sha2-nistp256 AAAA…``. Raises MalformedKeyError."""
        return cls._loaded(serialization.load_ssh_public_key, line.encode("utf-8"), subject)

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read a ``.pub`` file: SPKI PEM, or an OpenSSH public key line. Raises MalformedKeyError."""
        data = read_limited(path, _MAX_KEY_FILE)
        is_ssh = data.startswith((b"ssh-", b"ecdsa-", b"sk-"))
        load = serialization.load_ssh_public_key if is_ssh else serialization.load_pem_public_key
        return cls._loaded(load, data, str(path))

    @classmethod
    def _loaded(cls, load: Callable[[bytes], PublicKeyTypes], data: bytes, subject: str) -> PublicKey:
        try:
            key = load(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            hint = "give a .pub file in SPKI PEM form, or an OpenSSH public key line"
            if b"PRIVATE KEY" in data:
                hint = "this looks like a private key: give the .pub file beside it, and keep this one to yourself"
            raise MalformedKeyError("not a public key", subject=subject, hint=hint) from error
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls.from_spki(der, subject=subject)

    def __reduce__(self) -> tuple[object, ...]:
        """For another process: the key travels as its SPKI, and is read again there."""
        return (_from_spki, (self.spki,))

    @property
    def raw(self) -> bytes:
        """The 32 raw bytes of an Ed25519 key. Raises MalformedKeyError for other types."""
        if not isinstance(self._key, Ed25519PublicKey):
            raise MalformedKeyError("not an Ed25519 key", subject=self.key_id)
        return self._key.public_bytes_raw()

    @property
    def key_id(self) -> str:
        """SHA-256 of the DER SPKI, hex."""
        return sha256_hex(self.spki)

    @property
    def base64(self) -> str:
        """Base64 of the DER SPKI."""
        return base64.b64encode(self.spki).decode("ascii")

    @property
    def hint(self) -> str:
        """Base64 of SHA-256(DER SPKI): the public-key hint of a Sigstore bundle."""
        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode("ascii")

    def pem(self) -> bytes:
        """SPKI PEM, as ``openssl pkey -pubin`` reads it."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def openssh(self) -> str:
        """``ssh-ed25519 AAAA…`` or ``ecdsa-sha2-nistp256 AAAA…``, without a comment."""
        encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return self._key.public_bytes(encoding, form).decode("ascii")

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` over ``data`` is this key's: pure Ed25519, or ECDSA with SHA-256."""
        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def _from_spki(der: bytes) -> PublicKey:
    return PublicKey.from_spki(der, subject="key")


class Signer(Protocol):
    """What can sign: a key file here; a token or a key service may implement it elsewhere."""

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies it."""


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A signer that holds an Ed25519 private key in memory."""

    _key: Ed25519PrivateKey
    public_key: PublicKey

    def sign(self, data: bytes) -> bytes:
        """Pure Ed25519 (RFC 8032) over ``data``: 64 bytes."""
        return self._key.sign(data)


def generate(out: Path, name: str, *, password: bytes | None) -> tuple[Path, Path, PublicKey]:
    """Make a new Ed25519 key: ``out/name.pem`` (mode 0600, PKCS#8) and ``out/name.pub``.

    Raises:
        RefusedError: one of the two files exists.
        OutputError: they cannot be written.
    """
    if not name or "/" in name or name.startswith("."):
        raise RefusedError("a key name is a plain file name", subject=name)
    make_directory(out)
    private_path, public_path = out / f"{name}.pem", out / f"{name}.pub"
    for path in (private_path, public_path):
        if path.exists() or path.is_symlink():
            raise RefusedError("exists already and is never overwritten", subject=str(path), hint="use --name")
    key = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    )
    write_bytes(
        private_path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
        mode=0o600,
    )
    public = PublicKey("ed25519", _spki_of(key.public_key()), key.public_key())
    write_bytes(public_path, public.pem())
    return private_path, public_path, public


def load_signer(spec: str, *, password: bytes | None = None) -> FileSigner:
    """Load a private key.

    Args:
        spec: a file (PKCS#8 PEM or OpenSSH), or ``env:NAME`` for a key in an environment variable.
        password: of an encrypted key; never taken from the command line.

    Raises:
        NotFoundError: no such file or variable.
        MalformedKeyError: not an Ed25519 private key, or the password is missing or wrong.
    """
    data = _key_data(spec)
    is_ssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if is_ssh else serialization.load_pem_private_key
    try:
        key = load(data, password)
    except TypeError as error:  # how cryptography says: a password where none belongs, or none where one does
        message = "the key is encrypted" if password is None else "the key has no password"
        raise MalformedKeyError(message, subject=spec, hint="see --password-file") from error
    except UnsupportedAlgorithm as error:
        if "bcrypt" in str(error):
            raise missing_extra("ssh", "bcrypt") from error
        raise MalformedKeyError("unsupported kind of private key", subject=spec) from error
    except ValueError as error:
        if b"ENCRYPTED" in data and password is not None:
            hint = "see --password-file"
            raise MalformedKeyError("wrong password, or a damaged key", subject=spec, hint=hint) from error
        hint = "give a PKCS#8 PEM or OpenSSH private key, or env:NAME; ucaudit keygen makes one"
        if b"PUBLIC KEY" in data:
            hint = "this is a public key; give the .pem file"
        raise MalformedKeyError("not a private key", subject=spec, hint=hint) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedKeyError("not an Ed25519 key", subject=spec, hint="make one with ucaudit keygen")
    return FileSigner(key, PublicKey("ed25519", _spki_of(key.public_key()), key.public_key()))


def is_encrypted(spec: str) -> bool:
    """Whether a key says that it needs a password (for asking before hours of work). Raises as load_signer."""
    data = _key_data(spec)
    if b"BEGIN OPENSSH PRIVATE KEY" in data:
        body = b"".join(line for line in data.splitlines() if not line.startswith(b"-----"))
        try:
            return b"\x00\x00\x00\x04none" not in base64.b64decode(body)[:64]
        except binascii.Error:
            return False
    return b"BEGIN ENCRYPTED" in data


def _key_data(spec: str) -> bytes:
    """A private key's file, or the environment variable that holds one. Raises InputError, NotFoundError."""
    if not spec.startswith(_ENVIRONMENT_PREFIX):
        return read_limited(Path(spec), _MAX_KEY_FILE)
    value = os.environ.get(spec.removeprefix(_ENVIRONMENT_PREFIX))
    if value is None:
        hint = "set it to the text of a private key, or give a file"
        raise InputError("this environment variable is not set", subject=spec, hint=hint)
    if "\n" not in value.strip():
        value = value.replace("\\n", "\n")  # how some CI systems keep a text of several lines
    return value.encode("utf-8")


def _spki_of(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
