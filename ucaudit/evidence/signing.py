"""DSSE envelopes over in-toto statements.

The signature covers the DSSE pre-authentication encoding ``"DSSEv1" SP LEN(type) SP type SP LEN(body) SP body``
of the stored bytes (ASCII decimal byte lengths; secure-systems-lab/dsse, protocol.md). Nothing is parsed
before its signature holds, and nothing is re-serialised before it is checked. The ``keyid`` in an envelope is
an unauthenticated hint: every candidate key is tried, and a wrong hint is reported, never believed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import MalformedRecordError, SignatureInvalidError, UnsupportedSchemaError
from ucaudit.core.records import Statement, parse_statement
from ucaudit.evidence.keys import PublicKey, Signer

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
SIGSTORE_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_ENVELOPE_BYTES: Final = 16 << 20
MAX_SIGNATURES: Final = 16


def pae(payload_type: str, body: bytes) -> bytes:
    """DSSE pre-authentication encoding: what is signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature of an envelope with its unauthenticated key hint (may be empty)."""

    key_hint: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope. ``payload`` is the opaque signed bytes; ``raw`` the file they came in."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]
    raw: bytes
    subject: str
    """The file name, for messages."""

    @classmethod
    def parse(cls, data: bytes, *, subject: str) -> Envelope:
        """Read a bare DSSE envelope or a Sigstore bundle v0.3 that holds one. Nothing is verified here.

        Raises:
            MalformedRecordError: over-large, not strict JSON, missing or unknown members, base64 that is not
                canonical, no signature, or more than :data:`MAX_SIGNATURES`.
            UnsupportedSchemaError: a Sigstore bundle of another version.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise MalformedRecordError(f"larger than {MAX_ENVELOPE_BYTES} bytes", subject=subject)
        document = strictjson.loads(data, subject=subject)
        if isinstance(document, dict) and "mediaType" in document:
            document = _inside_sigstore_bundle(document, subject)
        if not isinstance(document, dict) or set(document) != {"payloadType", "payload", "signatures"}:
            raise MalformedRecordError("not a dsse envelope (payloadType, payload, signatures)", subject=subject)
        kind, payload, signatures = document["payloadType"], document["payload"], document["signatures"]
        if not isinstance(kind, str) or not isinstance(payload, str) or not isinstance(signatures, list):
            raise MalformedRecordError("a dsse member has the wrong type", subject=subject)
        if not 1 <= len(signatures) <= MAX_SIGNATURES:
            raise MalformedRecordError(
                f"{len(signatures)} signatures; 1 to {MAX_SIGNATURES} allowed", subject=subject
            )
        parsed = []
        for item in signatures:
            if not isinstance(item, dict) or not {"sig"} <= set(item) <= {"sig", "keyid"}:
                raise MalformedRecordError("a malformed dsse signature", subject=subject)
            hint = item.get("keyid", "")
            if not isinstance(hint, str) or not isinstance(item["sig"], str):
                raise MalformedRecordError("a malformed dsse signature", subject=subject)
            parsed.append(EnvelopeSignature(hint, _decode(item["sig"], subject)))
        return cls(kind, _decode(payload, subject), tuple(parsed), data, subject)

    @property
    def digest(self) -> str:
        """SHA-256 of the envelope file's bytes: what ledgers and endorsements refer to."""
        return sha256_hex(self.raw)

    @property
    def payload_digest(self) -> str:
        """SHA-256 of the signed payload."""
        return sha256_hex(self.payload)

    def signers(self, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
        """The keys among ``keys`` that made a signature here, each once, whatever the hints say."""
        message = pae(self.payload_type, self.payload)
        return tuple(key for key in keys if any(key.verify(item.signature, message) for item in self.signatures))

    def wrong_hints(self, keys: Iterable[PublicKey]) -> tuple[str, ...]:
        """Key hints that name another key than the one that made the signature."""
        message = pae(self.payload_type, self.payload)
        wrong = []
        for item in self.signatures:
            for key in keys:
                if key.verify(item.signature, message) and item.key_hint not in ("", key.key_id):
                    wrong.append(item.key_hint)
        return tuple(wrong)

    def unmade_by(self, keys: Iterable[PublicKey]) -> tuple[str, ...]:
        """The key hints (maybe empty) of the signatures that none of ``keys`` made."""
        known = tuple(keys)
        message = pae(self.payload_type, self.payload)
        return tuple(
            item.key_hint
            for item in self.signatures
            if not any(key.verify(item.signature, message) for key in known)
        )

    def require_type(self) -> None:
        """Raises UnsupportedSchemaError unless the payload type is exactly in-toto's."""
        if self.payload_type != PAYLOAD_TYPE:
            raise UnsupportedSchemaError(
                f"payload type {self.payload_type[:80]!r}, expected {PAYLOAD_TYPE!r}", subject=self.subject
            )

    def statement(self) -> dict[str, Any]:
        """The payload as a strict JSON object. Call only after a signature held.

        Raises:
            UnsupportedSchemaError: the payload type is not in-toto's.
            MalformedRecordError: not a strict JSON object.
        """
        self.require_type()
        document = strictjson.loads(self.payload, subject=self.subject)
        if not isinstance(document, dict):
            raise MalformedRecordError("the statement is not a json object", subject=self.subject)
        return document


def read_statement(envelope: Envelope) -> Statement:
    """The statement in an envelope. Call only after a signature held.

    Raises:
        UnsupportedSchemaError: another payload, statement or predicate type.
        MalformedRecordError: see :func:`ucaudit.core.records.parse_statement`.
    """
    envelope.require_type()
    return parse_statement(envelope.payload, subject=envelope.subject)


def sign(payload: bytes, signer: Signer, *, subject: str = "envelope") -> Envelope:
    """Sign a serialised statement. Returns the envelope, parsed back from the bytes to be stored."""
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    key = signer.public_key
    if not key.verify(signature, pae(PAYLOAD_TYPE, payload)):
        raise SignatureInvalidError("the signer returned a signature that does not verify", subject=key.key_id)
    document = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.key_id, "sig": base64.b64encode(signature).decode("ascii")}],
    }
    return Envelope.parse(strictjson.dumps(document) + b"\n", subject=subject)


def sigstore_bundle(envelope: Envelope, key: PublicKey) -> bytes:
    """The envelope as a single-signature Sigstore bundle v0.3 with a public-key hint and no log entries."""
    if len(envelope.signatures) != 1:
        raise MalformedRecordError("a sigstore bundle holds one signature", subject=envelope.subject)
    document = {
        "mediaType": SIGSTORE_MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(envelope.payload).decode("ascii"),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"sig": base64.b64encode(envelope.signatures[0].signature).decode("ascii"), "keyid": ""}
            ],
        },
    }
    return json.dumps(document, indent=2).encode("ascii") + b"\n"


def _inside_sigstore_bundle(document: dict[str, Any], subject: str) -> Any:  # noqa: ANN401 - checked by the caller
    """The envelope of a Sigstore bundle in the one form that we write: a public-key hint, and no log entries.

    Other material (certificates, transparency logs, time stamps) would be ignored here, and an ignored proof reads
    like a checked one: it is refused.
    """
    kind = document["mediaType"]
    if kind != SIGSTORE_MEDIA_TYPE:
        raise UnsupportedSchemaError(
            f"media type {str(kind)[:80]!r}, expected {SIGSTORE_MEDIA_TYPE!r}", subject=subject
        )
    if "dsseEnvelope" not in document:
        raise MalformedRecordError("the sigstore bundle holds no dsse envelope", subject=subject)
    material = document.get("verificationMaterial")
    if set(document) != {"mediaType", "verificationMaterial", "dsseEnvelope"} or not isinstance(material, dict):
        raise MalformedRecordError("the sigstore bundle has missing or unknown members", subject=subject)
    if not {"publicKey"} <= set(material) <= {"publicKey", "tlogEntries"} or material.get("tlogEntries", []) != []:
        raise UnsupportedSchemaError(
            "a sigstore bundle with other material than a public key",
            subject=subject,
            hint="check certificates and log entries with cosign",
        )
    key = material["publicKey"]
    if not isinstance(key, dict) or set(key) != {"hint"} or not isinstance(key["hint"], str):
        raise MalformedRecordError("the sigstore bundle's public key has no hint", subject=subject)
    hint = _decode(key["hint"], subject).hex()
    envelope = document["dsseEnvelope"]
    signatures = envelope.get("signatures") if isinstance(envelope, dict) else None
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise MalformedRecordError("a sigstore bundle holds one signature", subject=subject)
    # The bundle's hint is the SHA-256 of the key, as our key ids are: it stands for an empty one in the envelope.
    return {**envelope, "signatures": [{**signatures[0], "keyid": signatures[0].get("keyid") or hint}]}


def _decode(text: str, subject: str) -> bytes:
    """Standard or URL-safe base64 with padding, and only the canonical spelling of the last bits."""
    url_safe = "-" in text or "_" in text
    try:
        data = base64.b64decode(text, altchars=b"-_" if url_safe else None, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRecordError("not base64", subject=subject) from error
    canonical = base64.urlsafe_b64encode(data) if url_safe else base64.b64encode(data)
    if canonical != text.encode("ascii", "replace"):
        raise MalformedRecordError("base64 in a spelling that is not canonical", subject=subject)
    return data
