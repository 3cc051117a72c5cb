"""RFC 3161 time stamps: requests to carry to an authority, and tokens checked offline against a pinned one.

Nothing here touches the network. A token holds the SHA-256 of an envelope file and a time, signed by the authority.
The authority is pinned by its own certificate in the trust file; a certificate that comes inside a token is never
believed for being there. Certificates are judged at the token's own time: there is no revocation list offline.
Parsing and CMS signatures are rfc3161-client's (extra ``timestamp``).
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from ucaudit.core.errors import (
    MalformedKeyError,
    MalformedRecordError,
    RefusedError,
    SignatureInvalidError,
    UntrustedKeyError,
    missing_extra,
)
from ucaudit.core.files import read_limited
from ucaudit.evidence.trust.file import MAX_CERTIFICATE
from ucaudit.evidence.trust.model import TrustedAuthority

MAX_TOKEN_BYTES: Final = 64 << 10
EXTRA: Final = "timestamp"
_SHA256_OID: Final = "2.16.840.1.101.3.4.2.1"
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed time-stamp response of which nothing has been checked."""

    digest: str
    """The SHA-256 it is over, hex."""
    moment: datetime
    """Its time in UTC, plus the accuracy it states: the latest moment that it can mean."""
    _response: Any
    subject: str


def require_available() -> None:
    """Raises MissingExtraError unless the ``timestamp`` extra is installed."""
    _client()


def make_request(envelope: bytes) -> bytes:
    """A time-stamp query (DER, RFC 3161 section 2.4.1) over the SHA-256 of an envelope file's bytes.

    It asks for the certificate and carries a random nonce. Raises MissingExtraError.
    """
    client = _client()
    builder = client.TimestampRequestBuilder().data(envelope).hash_algorithm(client.HashAlgorithm.SHA256)
    return bytes(builder.nonce(nonce=True).cert_request(cert_request=True).build().as_bytes())


def parse_token(data: bytes, *, subject: str) -> Token:
    """Read a time-stamp response.

    Raises:
        MissingExtraError: the ``timestamp`` extra is not installed.
        MalformedRecordError: too large, not a response, refused by the authority, or not over a SHA-256.
    """
    client = _client()
    if len(data) > MAX_TOKEN_BYTES:
        raise MalformedRecordError(f"a time stamp larger than {MAX_TOKEN_BYTES} bytes", subject=subject)
    try:
        response = client.decode_timestamp_response(data)
        status = response.status
        if status != client.PKIStatus.GRANTED:
            raise MalformedRecordError(f"the authority did not grant it (status {status})", subject=subject)
        info = response.tst_info
        imprint, moment, accuracy = info.message_imprint, info.gen_time, info.accuracy
        algorithm, digest = imprint.hash_algorithm.dotted_string, bytes(imprint.message)
    except ValueError as error:
        hint = "give the whole response, not the bare token" if data[:1] == b"\x30" else None
        raise MalformedRecordError("not a time-stamp response", subject=subject, hint=hint) from error
    if algorithm != _SHA256_OID or len(digest) != 32:
        raise MalformedRecordError(f"over a digest of type {algorithm}, expected sha-256", subject=subject)
    slack = timedelta()
    if accuracy is not None:
        slack = timedelta(
            seconds=accuracy.seconds or 0, milliseconds=accuracy.millis or 0, microseconds=accuracy.micros or 0
        )
    return Token(digest.hex(), moment + slack, response, subject)


def verify_token(token: Token, authorities: Sequence[TrustedAuthority]) -> TrustedAuthority:
    """Find the pinned authority that made a token.

    Raises:
        UntrustedKeyError: none of them did.
        SignatureInvalidError: one is named in it, and its signature or certificate does not hold.
        MalformedKeyError: a pinned certificate cannot be read.
    """
    client = _client()
    problems = []
    for authority in authorities:
        outside = authority.validity.outside(token.moment)
        if outside:
            problems.append((authority.name, outside))
            continue
        leaf = _certificate(authority.certificate, authority.name)
        issuers = [_certificate(der, authority.name) for der in authority.issuers]
        verifier = client.VerifierBuilder(tsa_certificate=leaf, roots=issuers or [leaf]).build()
        try:
            with warnings.catch_warnings():  # about certificates inside the token, which are the token's own word
                warnings.simplefilter("ignore")
                verifier.verify(token._response, bytes.fromhex(token.digest))
        except (client.VerificationError, ValueError, _invalid_version()) as error:
            problems.append((authority.name, _plain(error)))
        else:
            return authority
    if len(problems) == 1:
        name, reason = problems[0]
        raise SignatureInvalidError(f"no valid token of authority {name}: {reason}", subject=token.subject)
    raise UntrustedKeyError(
        f"none of the {len(problems)} authorities in the trust file made this token",
        subject=token.subject,
        hint="compare the authority's certificate over another channel, then ucaudit trust add --authority",
    )


def read_authority(path: Path, *, name: str | None = None) -> TrustedAuthority:
    """Read a PEM file: the certificate that signs the tokens first, then those above it, up to the root.

    Args:
        path: the file.
        name: what to call the authority; by default its certificate's subject.

    Raises:
        NotFoundError: no such file.
        MalformedKeyError: no certificate in it, or the first one is not for time stamping.
    """
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound
    from cryptography.x509.oid import ExtendedKeyUsageOID

    found = [base64.b64decode(b"".join(block.split())) for block in _PEM.findall(read_limited(path, 1 << 20))]
    if not found or any(len(der) > MAX_CERTIFICATE for der in found):
        raise MalformedKeyError("no certificate in it", subject=str(path), hint="PEM, the authority's own first")
    leaf, *issuers = (_certificate(der, str(path)) for der in found)
    try:
        usage = leaf.extensions.get_extension_for_class(ExtendedKeyUsage)
        stamps = usage.critical and list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    except (ExtensionNotFound, ValueError):
        stamps = False
    if not stamps:
        raise MalformedKeyError(
            "the first certificate is not one for time stamping alone (critical extended key usage)",
            subject=str(path),
            hint="put the certificate that signs the tokens first, then its issuers",
        )
    if leaf.issuer != leaf.subject and not issuers:
        raise RefusedError(
            f"the certificate is signed by {leaf.issuer.rfc4514_string()}, which is not in the file",
            subject=str(path),
            hint="append the issuers' certificates up to the root",
        )
    return TrustedAuthority(name or leaf.subject.rfc4514_string(), found[0], tuple(found[1:]))


def _certificate(der: bytes, subject: str) -> Any:  # noqa: ANN401 - an x509.Certificate, imported late
    from cryptography.x509 import load_der_x509_certificate

    try:
        return load_der_x509_certificate(der)
    except (ValueError, _invalid_version()) as error:
        raise MalformedKeyError("not a certificate", subject=subject) from error


def _invalid_version() -> type[Exception]:
    """What cryptography raises, beside ValueError, for a certificate of no known version."""
    from cryptography.x509 import InvalidVersion

    return InvalidVersion


def _plain(error: Exception) -> str:
    """A library's sentence in our form, without its error stack."""
    text = str(error).split("ErrorStack", 1)[0].strip(" :.")
    return (text[:1].lower() + text[1:])[:120]


def _client() -> Any:  # noqa: ANN401 - the module, imported late
    try:
        import rfc3161_client
    except ImportError as error:
        raise missing_extra(EXTRA, "rfc3161-client") from error
    return rfc3161_client
