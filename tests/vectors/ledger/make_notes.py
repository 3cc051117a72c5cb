"""Writes notes.json. It needs no part of ucaudit, so the vectors do not inherit its mistakes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DASH = "\N{EM DASH}"
NAME = "example.com/evidence"
WITNESS = "witness.example/w1"
TIME = 1_767_225_600


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def private(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())


def key_id(name: str, kind: bytes, key: Ed25519PrivateKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + key.public_key().public_bytes_raw()).digest()[:4]


LOG, OTHER = private(b"vector ledger key"), private(b"witness")
LOG_ID = key_id(NAME, b"\x01", LOG)
VKEY = f"{NAME}+{LOG_ID.hex()}+{b64(bytes([1]) + LOG.public_key().public_bytes_raw())}"
ROOT = b64(hashlib.sha256(b"\x00a").digest())
BODY = f"{NAME}\n1\n{ROOT}\n"


def line(text: str, *, key: Ed25519PrivateKey = LOG, identifier: bytes = LOG_ID) -> str:
    """A signature line of the ledger's name over ``text``."""
    return f"{DASH} {NAME} {b64(identifier + key.sign(text.encode()))}\n"


def note(text: str, *lines: str) -> str:
    """A signed note; by default with the one right signature."""
    return text + "\n" + "".join(lines or [line(text)])


def cosignature(text: str) -> str:
    """A witness's cosignature/v1 line."""
    signature = OTHER.sign(f"cosignature/v1\ntime {TIME}\n{text}".encode())
    blob = key_id(WITNESS, b"\x04", OTHER) + TIME.to_bytes(8, "big") + signature
    return f"{DASH} {WITNESS} {b64(blob)}\n"


GOOD, WITNESSED = line(BODY), cosignature(BODY)
EMPTY = f"{NAME}\n0\n{b64(hashlib.sha256(b'').digest())}\n"
ELSEWHERE = BODY.replace(NAME, "example.com/other")

OK = {
    "plain": note(BODY),
    "with-a-witness-cosignature": note(BODY, GOOD, WITNESSED),
    "unknown-signature-first": note(BODY, WITNESSED, GOOD),
    "same-signature-twice": note(BODY, GOOD, GOOD),
    "sixteen-unknown-signatures": note(BODY, *[WITNESSED] * 16, GOOD),
    "extension-line": note(BODY + "extension line\n"),
    "empty-tree": note(EMPTY),
}
INCONSISTENT = {
    "witness-only": note(BODY, WITNESSED),
    "right-name-other-key-id": note(BODY, line(BODY, identifier=bytes(4))),
    "right-key-id-other-key": note(BODY, line(BODY, key=OTHER)),
    "good-then-bad-signature": note(BODY, GOOD, line(BODY, key=OTHER)),
    "size-changed": note(BODY.replace("\n1\n", "\n2\n"), GOOD),
    "signature-cut": note(BODY, f"{DASH} {NAME} {b64(LOG_ID + LOG.sign(BODY.encode())[:63])}\n"),
    "other-origin": note(ELSEWHERE),
}
SIZES = {
    "leading-zero": "01",
    "negative": "-1",
    "plus-sign": "+1",
    "hex": "0x1",
    "arabic-digit": "\N{ARABIC-INDIC DIGIT ONE}",
    "two-to-the-63": str(2**63),
    "leading-space": " 1",
    "underscore": "1_0",
    "very-long": "9" * 200,
}
MALFORMED = {
    "empty": "",
    "no-signature": BODY,
    "no-blank-line": BODY + GOOD,
    "no-final-newline": note(BODY)[:-1],
    "blank-line-but-no-signature": BODY + "\n",
    **{f"size-{name}": note(BODY.replace("\n1\n", f"\n{size}\n")) for name, size in SIZES.items()},
    "root-non-canonical-base64": note(BODY.replace(ROOT, ROOT[:-2] + chr(ord(ROOT[-2]) + 1) + "=")),
    "root-without-padding": note(BODY.replace(ROOT, ROOT.rstrip("="))),
    "root-of-31-bytes": note(BODY.replace(ROOT, b64(bytes(31)))),
    "root-trailing-space": note(BODY.replace(ROOT, ROOT + " ")),
    "two-lines": note(f"{NAME}\n1\n"),
    "empty-origin": note(f"\n1\n{ROOT}\n"),
    "empty-extension-line": note(BODY + "\nafter\n"),
    "crlf": note(BODY.replace("\n", "\r\n")),
    "tab": note(BODY.replace(NAME, NAME + "\t")),
    "nul": note(BODY.replace(NAME, NAME + "\0")),
    "hyphen-for-dash": note(BODY, GOOD.replace(DASH, "-")),
    "two-spaces": note(BODY, GOOD.replace(NAME + " ", NAME + "  ")),
    "plus-in-name": note(BODY, GOOD.replace(NAME, "a+b")),
    "no-break-space-in-name": note(BODY, GOOD.replace(NAME, "a\N{NO-BREAK SPACE}b")),
    "signature-not-base64": note(BODY, f"{DASH} {NAME} !!!!\n"),
    "signature-url-safe-base64": note(BODY, f"{DASH} {NAME} _-__AAAA\n"),
    "signature-only-key-id": note(BODY, f"{DASH} {NAME} {b64(LOG_ID)}\n"),
    "text-among-signatures": note(BODY, GOOD, "hello\n"),
    "65-signatures": note(BODY, *[GOOD] * 65),
}
GO_DOCUMENTATION = {
    "name": "go-documentation",
    "expect": "ok",
    "text-only": True,
    "vkey": "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "note": "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    f"{DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
}


def main() -> None:
    groups = {"ok": OK, "ledger-inconsistent": INCONSISTENT, "malformed-record": MALFORMED}
    vectors = [GO_DOCUMENTATION] + [
        {"name": name, "expect": expect, "vkey": VKEY, "note": text}
        for expect, group in groups.items()
        for name, text in group.items()
    ]
    Path(__file__).with_name("notes.json").write_text(json.dumps(vectors, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
