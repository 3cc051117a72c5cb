"""The evidence bundle: a directory with fixed file names, closed by a signed statement over all of them.

This module is the only one that knows the names. Nothing in a bundle is ever code, and nothing in it is ever
the verifier.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit import __version__
from ucaudit.core.digest import FileManifest, StateManifest, check_name, sha256_file
from ucaudit.core.errors import (
    DigestMismatchError,
    MalformedRecordError,
    NotFoundError,
    OutputError,
    RefusedError,
    UnsafePathError,
    unreadable,
)
from ucaudit.core.files import is_directory, is_temporary, make_directory, read_limited, require_unused, write_bytes
from ucaudit.core.records import (
    Attestation,
    BundleClosing,
    Floor,
    Statement,
    Subject,
    Tool,
    make_statement,
    now,
)
from ucaudit.core.tokenvalues import MAX_TOKENS
from ucaudit.evidence.keys import PublicKey, Signer
from ucaudit.evidence.readme import readme
from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement, sign, sigstore_bundle

ATTESTATION: Final = "attestation.dsse.json"
SIGSTORE: Final = "attestation.sigstore.json"
CHAIN: Final = "attestations.intoto.jsonl"
PACK_MANIFEST: Final = "pack.SHA256SUMS"
STATE: Final = "STATE"
REFERENCE_MANIFEST: Final = "reference.SHA256SUMS"
VALUE_FILES: Final = ("nll-reference.safetensors", "nll-pack.safetensors", "pair.safetensors")
PLAN: Final = "plan.dsse.json"
LEDGER_PROOF: Final = "ledger-proof"
LEDGER_ENTRY: Final = "ledger-entry.json"
PLAN_PROOF: Final = "plan-ledger-proof"
PLAN_ENTRY: Final = "plan-ledger-entry.json"
SEED: Final = "seed.dsse.json"
SEED_PROOF: Final = "seed-ledger-proof"
SEED_ENTRY: Final = "seed-ledger-entry.json"
PROTOCOL: Final = "protocol.toml"
"""Of a floor: what was declared beforehand. Only a floor's bundle has one."""
FRESH_REFERENCE: Final = "fresh-nll-reference.safetensors"
README: Final = "README.txt"
CLOSING: Final = "bundle.dsse.json"
STAMP: Final = "timestamp.tsr"
CLOSING_STAMP: Final = "bundle.tsr"
"""A time stamp over the closing statement, and so the one file that it cannot list."""
REPORT_PREFIX: Final = "report-"
_FIXED: Final = frozenset(
    {ATTESTATION, SIGSTORE, CHAIN, PACK_MANIFEST, STATE, REFERENCE_MANIFEST, *VALUE_FILES, PLAN}
    | {SEED, SEED_PROOF, SEED_ENTRY, PROTOCOL, FRESH_REFERENCE}
    | {LEDGER_PROOF, LEDGER_ENTRY, PLAN_PROOF, PLAN_ENTRY, README, CLOSING, CLOSING_STAMP}
)
RECORD_FORMS: Final = (ATTESTATION, SIGSTORE, CHAIN, CLOSING)
"""The files that hold the record, or name it: any of them makes a directory a bundle, whole or not."""
_RUN_NAME: Final = re.compile(r"(run|fresh)-[a-z0-9][a-z0-9.-]{0,79}-[0-9]{1,10}\.safetensors")
_STAMP_NAME: Final = re.compile(r"timestamp(-[1-9][0-9]?)?\.tsr")
_GIVE: Final = "give the directory that ucaudit attest made"
_UNLISTED: Final = frozenset({CLOSING, CLOSING_STAMP})
MAX_FILES: Final = 200
MAX_ENDORSEMENTS: Final = 100
MAX_TEXT: Final = 256 << 20
MAX_REPORT: Final = 64 << 20
MAX_VALUES: Final = 5 * MAX_TOKENS + (1 << 20)
_LIMITS: Final = {
    **dict.fromkeys((PACK_MANIFEST, STATE, REFERENCE_MANIFEST), MAX_TEXT),
    **dict.fromkeys(VALUE_FILES, MAX_VALUES),
    FRESH_REFERENCE: MAX_VALUES,
    CHAIN: 4 * MAX_ENVELOPE_BYTES,
    CLOSING_STAMP: 64 << 10,
}
"""The most bytes a file of a bundle may have: every one is hashed, and nobody may feed a verifier for ever."""


def run_name(arm: str, seed: int, *, fresh: bool = False) -> str:
    """The name of the per-token file of one run of a floor protocol."""
    return f"{'fresh' if fresh else 'run'}-{arm}-{seed}.safetensors"


def report_name(profile: str, kind: str = "pdf") -> str:
    """The name of a report inside a bundle."""
    return f"{REPORT_PREFIX}{profile}.{kind}"


@dataclass(frozen=True)
class OpenBundle:
    """A bundle on disk. Its files are parsed, their signatures and digests are not yet judged."""

    path: Path
    attestation: Envelope
    files: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether the bundle holds a file of this name."""
        return name in self.files

    def read(self, name: str, limit: int = MAX_TEXT) -> bytes:
        """The bytes of one file. Raises NotFoundError, MalformedRecordError (too large)."""
        return read_limited(self.path / name, limit)

    @property
    def statement(self) -> Statement:
        """The attestation's statement. Judge the signature before believing it.

        Raises:
            MalformedRecordError, UnsupportedSchemaError: see :func:`parse_statement`.
        """
        statement = read_statement(self.attestation)
        if not isinstance(statement.predicate, Attestation):
            raise MalformedRecordError(
                f"holds a {statement.predicate_type}, not an attestation", subject=ATTESTATION
            )
        return statement

    @property
    def is_floor(self) -> bool:
        """Whether the record is a floor, which is about no one pack. Nothing is judged. Raises InputError."""
        return isinstance(read_statement(self.attestation).predicate, Floor)

    @property
    def record(self) -> Attestation:
        """The attestation itself."""
        predicate = self.statement.predicate
        assert isinstance(predicate, Attestation)
        return predicate

    def envelope(self, name: str) -> Envelope | None:
        """A DSSE file of the bundle, or None if it is not there."""
        return Envelope.parse(self.read(name, MAX_ENVELOPE_BYTES), subject=name) if self.has(name) else None

    @property
    def closing(self) -> Envelope | None:
        """The closing statement's envelope."""
        return self.envelope(CLOSING)

    @property
    def endorsements(self) -> tuple[tuple[Envelope, Statement], ...]:
        """Every line of the chain file after the first. Judge their signatures before believing them.

        Raises:
            MalformedRecordError, UnsupportedSchemaError: a line is not a statement of ours.
        """
        return tuple((envelope, read_statement(envelope)) for envelope in self.chain()[1:])

    def chain(self) -> tuple[Envelope, ...]:
        """The envelopes of ``attestations.intoto.jsonl``: the attestation, then its endorsements.

        Raises:
            MalformedRecordError: a line is not an envelope, or there are more than :data:`MAX_ENDORSEMENTS`.
        """
        if not self.has(CHAIN):
            return ()
        lines = self.read(CHAIN, 2 * MAX_ENVELOPE_BYTES).splitlines(keepends=True)
        if len(lines) > 1 + MAX_ENDORSEMENTS:
            raise MalformedRecordError(f"more than {MAX_ENDORSEMENTS} endorsements", subject=CHAIN)
        return tuple(
            Envelope.parse(line, subject=f"{CHAIN} line {number}") for number, line in enumerate(lines, start=1)
        )

    @property
    def ledger_proof(self) -> bytes | None:
        """The self-contained inclusion proof of the attestation, if there is one."""
        return self.read(LEDGER_PROOF, 1 << 20) if self.has(LEDGER_PROOF) else None

    def pack_manifest(self) -> FileManifest:
        """``pack.SHA256SUMS``, parsed."""
        return FileManifest.parse(self.read(PACK_MANIFEST), subject=PACK_MANIFEST)

    def state(self) -> StateManifest:
        """``STATE``, parsed."""
        return StateManifest.parse(self.read(STATE), subject=STATE)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file but the closing statement and its own time stamp."""
        return {name: sha256_file(self.path / name) for name in self.files if name not in _UNLISTED}

    @property
    def stamps(self) -> tuple[str, ...]:
        """The names of the time stamps over the record, its plan and its endorsements."""
        return tuple(name for name in self.files if _STAMP_NAME.fullmatch(name))

    def check_artefacts(self) -> None:
        """Compare every file that the attestation cites with its digest.

        Raises:
            DigestMismatchError: naming the file.
            NotFoundError: a cited file is missing.
        """
        for name, expected in cited(self.record).items():
            if not self.has(name):
                raise NotFoundError("the record cites this file, and the bundle lacks it", subject=name)
            found = sha256_file(self.path / name)
            if found != expected:
                raise DigestMismatchError(f"expected sha-256 {expected}, found {found}", subject=name)


def cited(record: Attestation) -> dict[str, str]:
    """The bundle files that an attestation binds by digest."""
    result = {
        PACK_MANIFEST: record.pack.pack_digest,
        STATE: record.reconstruction.state_digest,
        REFERENCE_MANIFEST: record.reference.files_digest,
    }
    result |= {item.name: item.sha256 for item in record.measurement.value_files}
    if record.plan is not None:
        result[PLAN] = record.plan.envelope_digest
        if record.plan.seed is not None:
            result[SEED] = record.plan.seed.envelope_digest
    return result


def open_bundle(path: Path) -> OpenBundle:
    """Open a bundle directory.

    Raises:
        NotFoundError: no such directory, or no attestation in it.
        MalformedRecordError: the attestation is not an envelope, or the directory holds files no bundle has, or
            too many, or one too large.
        UnsafePathError: a link or a directory inside it, or a name with control characters.
        InputError: it cannot be listed.
    """
    if not is_directory(path):
        hint = "this takes the bundle's directory; unpack a .zip first" if path.is_file() else _GIVE
        raise NotFoundError("no such bundle directory", subject=str(path), hint=hint)
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    raise UnsafePathError("a bundle holds plain files only", subject=str(path / entry.name))
                names.append(entry.name)
                if len(names) > MAX_FILES:
                    raise MalformedRecordError(f"more than {MAX_FILES} files", subject=str(path))
                check_member(entry.name, entry.stat(follow_symlinks=False).st_size, subject=str(path))
    except OSError as error:
        raise unreadable(str(path), error, what="cannot be listed") from error
    if ATTESTATION not in names:
        raise NotFoundError(f"no {ATTESTATION} in it", subject=str(path), hint="give the directory of a bundle")
    envelope = Envelope.parse(read_limited(path / ATTESTATION, MAX_ENVELOPE_BYTES), subject=ATTESTATION)
    return OpenBundle(path, envelope, tuple(sorted(names)))


def check_member(name: str, size: int, *, subject: str) -> None:
    """Refuse a file that no bundle has.

    Args:
        name: its name in the bundle.
        size: its size in bytes.
        subject: the bundle, for messages.

    Raises:
        MalformedRecordError: no bundle has a file of this name, or of this size.
        UnsafePathError: a name with control characters.
    """
    check_name(name, subject=subject)
    place = str(Path(subject) / name)
    is_run = _RUN_NAME.fullmatch(name) is not None
    limit = MAX_VALUES if is_run else _LIMITS.get(name, MAX_REPORT)
    if size > limit:
        raise MalformedRecordError(f"larger than the {limit} bytes allowed here", subject=place)
    known = name in _FIXED or name.startswith(REPORT_PREFIX) or is_run or _STAMP_NAME.fullmatch(name)
    if not known or "/" in name:
        # No exception for our own temporary names: whatever the closing does not cover is a hole.
        hint = "left by an interrupted run: remove it" if is_temporary(name) else None
        raise MalformedRecordError("a bundle has no file of this name", subject=place, hint=hint)


def holds_bundle(directory: Path) -> bool:
    """Whether a directory is a bundle or what is left of one. Raises InputError if it cannot be looked into."""
    try:
        return any((directory / name).exists() for name in RECORD_FORMS)
    except OSError as error:
        raise unreadable(str(directory), error, what="cannot be listed") from error


def bundle_around(file: Path) -> Path | None:
    """The bundle that a file stands for: the record, its other forms, or the closing statement, in its bundle.

    Any other file of a bundle beside it is enough: taking files away must never turn the check of a bundle into
    that of one signature.

    Args:
        file: a file as somebody named it.

    Returns:
        Its directory, or None for a file that lies alone, or among things that are no bundle's.
    """
    if file.name not in RECORD_FORMS or not file.parent.is_dir():
        return None
    marks = _FIXED - {ATTESTATION, SIGSTORE, README, file.name}
    found = (entry.name in marks or _STAMP_NAME.fullmatch(entry.name) for entry in file.parent.iterdir())
    return file.parent if any(found) else None


def refuse_inside_bundle(target: Path) -> None:
    """Refuse an output file inside a bundle: its closing statement would no longer hold. Raises RefusedError."""
    for place in Path(os.path.realpath(target)).parents:
        if (place / ATTESTATION).exists():
            raise RefusedError(
                f"lies inside the bundle {place.name}, which it would break",
                subject=str(target),
                hint="choose a path outside; attest --profile makes reports that belong to a bundle",
            )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary directory beside ``out`` that becomes ``out`` at the end, or disappears.

    Raises:
        RefusedError: ``out`` exists and is not empty.
        OutputError: it cannot be made.
    """
    require_unused(out, hint="choose another output directory")
    parent = make_directory(out.parent)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", subject=str(parent)) from error
    try:
        yield stage
        stage.chmod(0o755)
        if out.exists():
            out.rmdir()
        stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_attestation(stage: Path, envelope: Envelope, key: PublicKey) -> None:
    """Write the attestation in its three forms: bare, as a Sigstore bundle, and as the chain's first line."""
    write_bytes(stage / ATTESTATION, envelope.raw)
    write_bytes(stage / SIGSTORE, sigstore_bundle(envelope, key))
    write_bytes(stage / CHAIN, envelope.raw)


def close_bundle(stage: Path, signer: Signer) -> Envelope:
    """Write the README and then, last, the signed statement over every other file."""
    attestation = sha256_file(stage / ATTESTATION)
    write_bytes(stage / README, readme(floor=(stage / PROTOCOL).exists()).encode("utf-8"))
    names = sorted(
        entry.name for entry in stage.iterdir() if entry.name not in _UNLISTED and not is_temporary(entry.name)
    )
    subjects = [Subject(name, sha256_file(stage / name)) for name in names]
    predicate = BundleClosing(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        attestation_digest=attestation,
        files=len(subjects),
    )
    envelope = sign(make_statement(predicate, subjects).to_bytes(), signer, subject=CLOSING)
    write_bytes(stage / CLOSING, envelope.raw)
    (stage / CLOSING_STAMP).unlink(missing_ok=True)  # a stamp over the statement that this one replaces
    return envelope


def closing_differences(closing: Statement, digests: Mapping[str, str]) -> list[str]:
    """How the files on disk differ from a closing statement: sentences, each naming a file."""
    recorded = {item.name: item.sha256 for item in closing.subjects}
    found = [f"{name}: missing" for name in sorted(recorded.keys() - digests.keys())]
    found += [f"{name}: not part of the closed bundle" for name in sorted(digests.keys() - recorded.keys())]
    found += [
        f"{name}: expected sha-256 {recorded[name][:16]}…, found {digests[name][:16]}…"
        for name in sorted(recorded.keys() & digests.keys())
        if recorded[name] != digests[name]
    ]
    return found


def attestation_subjects(record: Attestation, manifest: FileManifest) -> list[Subject]:
    """The subjects of an attestation: both manifests, and each pack file if there are at most 1,000."""
    subjects = [
        Subject(PACK_MANIFEST, record.pack.pack_digest),
        Subject(STATE, record.reconstruction.state_digest),
    ]
    if len(manifest.entries) <= 1000:
        subjects += [Subject(f"pack/{entry.path}", entry.digest) for entry in manifest.entries]
    return subjects
