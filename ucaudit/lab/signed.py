"""A signed record on its way to being a bundle, kept on disk so that no crash costs it or enters it twice.

Before the record is entered in a ledger, all that was signed lies in ``.NAME.measure/signed`` beside the output,
and ``signed.json`` says which inputs it is about. Whatever happens afterwards (a full disk, Ctrl-C while a report
is rendered, a power cut), the next run with the same inputs takes *this* record up: it measures nothing, signs
nothing new, and finds its entry in the ledger.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit.core import strictjson
from ucaudit.core.errors import DigestMismatchError, InputError, OutputError, RefusedError, UcauditError
from ucaudit.core.files import make_directory, read_limited, remove_leftovers, sync_directory, write_bytes
from ucaudit.core.records import Attestation
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import close_bundle, open_bundle
from ucaudit.evidence.registration import Registered, register
from ucaudit.evidence.signing import Envelope

if TYPE_CHECKING:
    from ucaudit.lab.attest import Request

STAGE: Final = "signed"
MARKER: Final = "signed.json"
_MAX_MARKER: Final = 1 << 16

Inputs = Mapping[str, str | None]
"""What a record is about, in words → digests: the same inputs, and only those, may take it up."""


@dataclass(frozen=True)
class SignedRecord:
    """Everything of a bundle but its ledger entry, its reports and its closing statement."""

    work: Path
    envelope: Envelope
    record: Attestation

    @property
    def stage(self) -> Path:
        """The directory that becomes the bundle."""
        return self.work / STAGE


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        bundle: the directory.
        record: what was signed.
        envelope_digest: its envelope's SHA-256.
        ledger_index: its entry, if there is a ledger.
        reports: file names of the reports inside.
        render_error: why there are none, if some were asked for.
        taken_up: whether an earlier run had signed it.
    """

    bundle: Path
    record: Attestation
    envelope_digest: str
    ledger_index: int | None
    reports: tuple[str, ...] = ()
    render_error: UcauditError | None = None
    taken_up: bool = False


def fresh_stage(work: Path) -> Path:
    """An empty directory for a record's files; what an interrupted run left half-written there is dropped."""
    shutil.rmtree(work / STAGE, ignore_errors=True)
    return make_directory(work / STAGE)


def keep(work: Path, inputs: Inputs, envelope: Envelope, record: Attestation) -> SignedRecord:
    """Say that the stage is whole. From here on the record may be entered in a ledger. Raises OutputError."""
    sync_directory(work / STAGE)
    marker = {"inputs": dict(inputs), "envelope": envelope.digest}
    write_bytes(work / MARKER, strictjson.dumps(marker) + b"\n")
    return SignedRecord(work, envelope, record)


def take_up(work: Path, inputs: Inputs) -> SignedRecord | None:
    """The record that an interrupted run signed, or None.

    Raises:
        RefusedError: it is about other inputs.
        DigestMismatchError, MalformedRecordError: its files were changed.
    """
    if not (work / MARKER).exists() or not (work / STAGE).is_dir():
        return None
    subject = str(work / MARKER)
    marker = strictjson.loads(read_limited(work / MARKER, _MAX_MARKER), subject=subject)
    kept = marker.get("inputs") if isinstance(marker, dict) else None
    if not isinstance(kept, dict):
        raise InputError("not the mark of a signed record", subject=subject)
    other = sorted(name for name in {*kept, *inputs} if kept.get(name) != inputs.get(name))
    if other:
        raise RefusedError(
            f"a record that an interrupted run signed lies here, about another {', '.join(other)}",
            subject=str(work),
            hint="finish it by the same command as then, or choose another --out; it may be in the ledger already",
        )
    remove_leftovers(work / STAGE)
    bundle = open_bundle(work / STAGE)
    if bundle.attestation.digest != marker.get("envelope"):
        raise DigestMismatchError("the signed record was changed", subject=str(work / STAGE))
    bundle.check_artefacts()
    return SignedRecord(work, bundle.attestation, bundle.record)


def publish(signed: SignedRecord, request: Request, *, taken_up: bool) -> Outcome:
    """Enter the record in the ledger, render, close, and give the bundle its name.

    It can be repeated after any interruption: the ledger keeps one entry an envelope. A report that cannot be
    rendered does not cost the evidence: the bundle is closed without reports.

    Raises:
        UcauditError: the ledger or the disk; the record stays where it is.
    """
    stage, placed = signed.stage, None
    for path in stage.glob(f"{names.REPORT_PREFIX}*"):
        path.unlink()
    if request.ledger is not None:
        placed = register(request.ledger, signed.envelope, request.ledger_signer or request.signer)
        write_proof(stage, placed, names.LEDGER_PROOF, names.LEDGER_ENTRY)
    reports: Mapping[str, bytes] = {}
    problem: Exception | None = None
    if request.render is not None:
        try:
            reports = request.render(open_bundle(stage))
        except Exception as error:  # noqa: BLE001 - raised again below, once the evidence is safe
            problem = error
    for name, data in reports.items():
        write_bytes(stage / name, data)
    close_bundle(stage, request.signer)
    give_name(stage, request.out)
    shutil.rmtree(signed.work, ignore_errors=True)
    if problem is not None and not isinstance(problem, UcauditError):
        raise problem
    index = placed.index if placed else None
    return Outcome(
        request.out, signed.record, signed.envelope.digest, index, tuple(reports), problem, taken_up=taken_up
    )


def write_proof(stage: Path, placed: Registered, proof: str, entry: str) -> None:
    """Write a ledger entry and its inclusion proof. Raises OutputError."""
    write_bytes(stage / proof, placed.proof)
    write_bytes(stage / entry, placed.entry)


def give_name(stage: Path, out: Path) -> None:
    """The stage under its final name: all of it, at once."""
    sync_directory(stage)
    try:
        stage.rename(out)  # an empty directory of that name is replaced
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", subject=str(out)) from error
    with suppress(OSError):
        sync_directory(out.parent)
