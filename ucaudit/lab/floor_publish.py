"""A floor's signed record on its way to being a bundle; whatever interrupts it, the ledger gets it once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import FileManifest, StateManifest
from ucaudit.core.errors import RefusedError
from ucaudit.core.files import make_directory, read_limited, remove_leftovers, sync_directory, write_bytes
from ucaudit.core.records import Floor, Limitation
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import close_bundle, open_bundle, write_attestation
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.floors.contents import check_floor_contents
from ucaudit.evidence.floors.protocol import KNOBS
from ucaudit.evidence.registration import register
from ucaudit.evidence.signing import Envelope, read_statement
from ucaudit.lab.signed import give_name, write_proof

if TYPE_CHECKING:
    from ucaudit.lab.floor import FloorRequest
    from ucaudit.lab.floor_plan import CommittedFloor

_STAGE: Final = "signed"
_MARKER: Final = "signed.json"


@dataclass(frozen=True)
class FloorOutcome:
    """What came out.

    Attributes:
        bundle: the directory.
        record: what was signed.
        envelope_digest: its envelope's SHA-256.
        ledger_index: its entry.
    """

    bundle: Path
    record: Floor
    envelope_digest: str
    ledger_index: int


def store_signed(
    request: FloorRequest,
    committed: CommittedFloor,
    envelope: Envelope,
    values: Mapping[str, Path],
    reference_files: FileManifest,
    reference_state: StateManifest,
) -> None:
    """Put the record and all it cites on the disk before anybody else learns of it. Raises OutputError."""
    stage = request.run_state / _STAGE
    shutil.rmtree(stage, ignore_errors=True)
    make_directory(stage)
    write_attestation(stage, envelope, request.signer.public_key)
    write_bytes(stage / names.PROTOCOL, request.protocol.data)
    write_bytes(stage / names.REFERENCE_MANIFEST, reference_files.to_bytes())
    write_bytes(stage / names.STATE, reference_state.to_bytes())
    write_bytes(stage / names.PLAN, committed.envelope.raw)
    write_proof(stage, committed.placed, names.PLAN_PROOF, names.PLAN_ENTRY)
    for name, path in values.items():
        write_bytes(stage / name, path.read_bytes())
    sync_directory(stage)
    marker = {"plan": committed.envelope.digest, "envelope": envelope.digest}
    write_bytes(request.run_state / _MARKER, strictjson.dumps(marker) + b"\n")


def signed_before(request: FloorRequest, committed: CommittedFloor) -> bool:
    """Whether an interrupted run signed the record of this plan.

    Raises:
        RefusedError: a record of another plan lies there.
    """
    path = request.run_state / _MARKER
    if not path.exists():
        return False
    marker = strictjson.loads(read_limited(path, 1 << 16), subject=str(path))
    if not isinstance(marker, dict) or marker.get("plan") != committed.envelope.digest:
        raise RefusedError("a record of another plan lies here", subject=str(path), hint="choose another --out")
    return True


def publish_floor(request: FloorRequest) -> FloorOutcome:
    """Enter the record in the ledger, draw, close, and give the bundle its name. It can be repeated.

    Raises:
        UcauditError: the ledger or the disk; the record stays where it is.
        VerificationError: its files were changed while it lay there.
    """
    stage = request.run_state / _STAGE
    remove_leftovers(stage)
    opened = open_bundle(stage)
    statement = read_statement(opened.attestation)
    record = statement.predicate
    assert isinstance(record, Floor)
    result = Verification(envelope_digest=opened.attestation.digest)
    check_floor_contents(opened, statement, record, result)
    for check in result.failures:
        if check.error is not None:
            raise check.error
    placed = register(request.ledger, opened.attestation, request.ledger_signer or request.signer)
    write_proof(stage, placed, names.LEDGER_PROOF, names.LEDGER_ENTRY)
    if request.render is not None:
        for name, data in request.render(record).items():
            write_bytes(stage / name, data)
    close_bundle(stage, request.signer)
    make_directory(request.out.parent)
    give_name(stage, request.out)
    return FloorOutcome(request.out, record, opened.attestation.digest, placed.index)


def floor_limitations(record: Floor, *, early: int = 0) -> tuple[Limitation, ...]:
    """What a reader must know before relying on a floor, the most particular first.

    Args:
        record: complete but for its limitations.
        early: how many of its measurements were made before its plan was.
    """
    protocol, measured = record.protocol, record.measurement
    tried = {item.direction for item in protocol.perturbations}
    found: list[tuple[str, str]] = []
    if record.reference.note:
        found.append(("reference-origin", record.reference.note))
    if early:
        found.append(
            (
                "measured-before-plan",
                f"{early} measurements were taken over from an earlier protocol in the same work directory: they "
                "were made before this plan was, and its margin could have been chosen with them in view.",
            )
        )
    if untried := [direction for direction in KNOBS if direction not in tried]:
        found.append(("directions-not-tried", f"Nothing was tried in the direction {' or '.join(untried)}."))
    idle = [f"{item.name} ({item.same_states})" for item in record.results.attempts if item.same_states]
    if idle:
        found.append(
            (
                "same-states",
                f"For so many of {len(protocol.seeds)} seeds an attempt ended in the baseline's own tensors: "
                f"{', '.join(idle)}.",
            )
        )
    found += [
        (
            "these-attempts",
            f"{len(protocol.perturbations)} changes of one knob of one encoder were tried. Nothing is said about "
            "other changes, about several at once, about other encoders, or about a limit of the architecture.",
        ),
        (
            "one-corpus",
            f"The result is about {measured.corpus.name}: {measured.n} of its {measured.corpus.windows_available} "
            f"windows of {measured.seq_len} tokens, and about {record.calibration.name}, which the encoder saw.",
        ),
        (
            "encoder-seed",
            "The encoder's seed draws the calibration sequences. Chance that it does not move is not counted.",
        ),
        (
            "packs-not-here",
            "The packs are named by digest and are not in the bundle. Encoding again gives the same digests on the "
            "same kind of processor with the same versions, and other bits elsewhere.",
        ),
        (
            "ledger",
            "A self-run ledger proves that the plan was entered before the result, and consistency with "
            "checkpoints that others kept. It does not prove wall-clock time, nor that nothing was "
            "tried in private before.",
        ),
    ]
    return tuple(Limitation(id=slug, text=text) for slug, text in found)
