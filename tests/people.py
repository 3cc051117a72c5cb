"""Signers beside the one that makes a bundle, and a local RFC 3161 authority, for the tests of trust."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

from bundles import Setting

from ucaudit.core.files import write_bytes
from ucaudit.core.records import Endorsement, Subject, Tool, make_statement, now
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import close_bundle, open_bundle
from ucaudit.evidence.keys import FileSigner, generate, load_signer
from ucaudit.evidence.signing import Envelope, sign
from ucaudit.evidence.trust import Trust, add_authority, add_key, load_trust
from ucaudit.evidence.verify import Verification, verify_bundle


def person(setting: Setting, name: str, *, roles=("validator",), trust: Path | None = None, **window) -> FileSigner:
    """A new key; with ``trust`` it is entered there under ``name@tests.invalid``."""
    private, _, key = generate(setting.root / "people", name, password=None)
    if trust is not None:
        add_key(trust, key, window.pop("principal", f"{name}@tests.invalid"), roles=roles, **window)
    return load_signer(str(private))


def endorsement(digest: str, signer: FileSigner, *, subject_digest: str | None = None, **changes) -> Envelope:
    """A signed endorsement; ``changes`` replace members of the predicate."""
    members = {
        "created": now(),
        "tool": Tool(name="ucaudit", version="0"),
        "attestation_digest": digest,
        "printed_name": "V. Person",
        "role": "validator",
        "meaning": "approval",
    } | changes
    statement = make_statement(Endorsement(**members), [Subject(names.ATTESTATION, subject_digest or digest)])
    return sign(statement.to_bytes(), signer, subject="endorsement")


def append_line(path: Path, raw: bytes, closer: FileSigner) -> None:
    """Put a line at the end of the chain, whatever it is, and close the bundle again."""
    chain = path / names.CHAIN
    write_bytes(chain, chain.read_bytes() + raw)
    close_bundle(path, closer)


def vkey_of(name: str, kind: int = 1, fill: int = 7) -> str:
    """A verifier key as C2SP signed-note writes it: type 1 is a ledger's, type 4 a witness's."""
    blob = bytes([kind]) + bytes([fill]) * 32
    key_id = hashlib.sha256(name.encode() + b"\n" + blob).hexdigest()[:8]
    return f"{name}+{key_id}+{base64.b64encode(blob).decode()}"


def add_signature(envelope: Envelope, *, key_hint: str, signature: str) -> bytes:
    """The envelope with one more signature."""
    document = json.loads(envelope.raw)
    document["signatures"].append({"keyid": key_hint, "sig": signature})
    return json.dumps(document).encode() + b"\n"


def judged(path: Path, trust: Path | Trust) -> Verification:
    return verify_bundle(open_bundle(path), trust if isinstance(trust, Trust) else load_trust(trust))


def failures(path: Path, trust: Path | Trust) -> dict[str, str]:
    """Slug → detail of every failed check."""
    return {check.slug: check.detail for check in judged(path, trust).failures}


CONFIG = """\
[ tsa ]
default_tsa = one
[ one ]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.2
digests = sha256, sha512
accuracy = secs:1, millisecs:500
ess_cert_id_alg = sha256
"""
EXTENSIONS = (
    "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n"
)


class Authority:
    """A time-stamp authority made with openssl: a root, and a certificate under it that signs tokens."""

    def __init__(self, root: Path, name: str = "Test Authority") -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "tsa.cnf").write_text(CONFIG)
        (root / "ext").write_text(EXTENSIONS)
        (root / "serial").write_text("01\n")
        key = ("-newkey", "rsa:2048", "-nodes")
        self._openssl(
            *("req", "-x509", *key, "-keyout", "root.key", "-out", "root.pem", "-days", "3650"),
            *("-subj", f"/CN={name} Root", "-addext", "keyUsage=critical,keyCertSign"),
        )
        self._openssl("req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"/CN={name}")
        self._openssl(
            *("x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"),
            *("-days", "3000", "-extfile", "ext", "-out", "tsa.pem"),
        )
        self.chain = root / "chain.pem"
        self.chain.write_text((root / "tsa.pem").read_text() + (root / "root.pem").read_text())

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def answer(self, query: bytes, *options: str) -> bytes:
        """The response to a query."""
        (self.root / "q.tsq").write_bytes(query)
        self._openssl(
            *("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "q.tsq", "-signer", "tsa.pem"),
            *("-inkey", "tsa.key", "-out", "r.tsr", *options),
        )
        return (self.root / "r.tsr").read_bytes()

    def query(self, data: bytes, *options: str) -> bytes:
        """A query that openssl makes."""
        (self.root / "data").write_bytes(data)
        self._openssl("ts", "-query", "-data", "data", "-cert", "-out", "q.tsq", *(options or ("-sha256",)))
        return (self.root / "q.tsq").read_bytes()

    def stamp(self, data: bytes) -> bytes:
        """A response over the SHA-256 of ``data``."""
        return self.answer(self.query(data))

    def trusted_in(self, trust: Path, **window) -> None:
        """Pin this authority in a trust file."""
        from ucaudit.evidence.timestamp import read_authority

        add_authority(trust, read_authority(self.chain, name="the authority"), **window)
