"""The plan of a floor protocol: committed to the ledger once, before anything is encoded, and held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import MalformedRecordError, RefusedError, UntrustedKeyError
from ucaudit.core.files import make_directory, read_limited, write_bytes
from ucaudit.core.records import FloorPlan, Subject, make_statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.registration import Registered, register
from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement, sign

if TYPE_CHECKING:
    from ucaudit.lab.floor import FloorRequest

_NOT_COMPARED: Final = frozenset({"created", "tool"})


@dataclass(frozen=True)
class CommittedFloor:
    """A floor's plan and its place in the ledger."""

    envelope: Envelope
    plan: FloorPlan
    placed: Registered


def commit(request: FloorRequest, draft: FloorPlan) -> CommittedFloor:
    """Enter the plan, or find the one that an earlier run of this output entered.

    Raises:
        RefusedError: that one says something else than the protocol says now.
        UntrustedKeyError: another key signed it.
        MalformedRecordError: it is not the plan of a floor.
        OutputError, LedgerInconsistentError: disk or ledger.
    """
    path = request.run_state / names.PLAN
    if not path.exists():
        statement = make_statement(
            draft,
            [
                Subject(names.PROTOCOL, draft.protocol_file.sha256),
                Subject(names.REFERENCE_MANIFEST, draft.reference_files_digest),
                Subject("corpus", draft.corpus_sha256),
                Subject("calibration", draft.calibration.sha256),
            ],
        )
        envelope = sign(statement.to_bytes(), request.signer, subject=names.PLAN)
        make_directory(request.run_state)
        # Written first: a run that is killed in between enters the same plan again, which the ledger has once.
        write_bytes(path, envelope.raw)
    envelope = Envelope.parse(read_limited(path, MAX_ENVELOPE_BYTES), subject=str(path))
    if not envelope.signers([request.signer.public_key]):
        raise UntrustedKeyError(
            "the plan that lies here was signed by another key than --key, or changed",
            subject=str(path),
            hint="give the key of the first run, or choose another --out",
        )
    plan = read_statement(envelope).predicate
    if not isinstance(plan, FloorPlan):
        raise MalformedRecordError("not the plan of a floor", subject=str(path))
    if changed := plan_changes(plan, draft):
        raise RefusedError(
            f"the protocol was changed after its plan was committed: {changed[0]}",
            subject=str(request.protocol.path),
            hint="put it back, or give the plan up (ucaudit plan abandon PLAN) and choose another --out; "
            f"the plan is {path}",
        )
    return CommittedFloor(
        envelope, plan, register(request.ledger, envelope, request.ledger_signer or request.signer)
    )


def plan_changes(planned: FloorPlan, now: FloorPlan) -> list[str]:
    """What differs between two plans, apart from when and by which release they were made: sentences."""
    found: list[str] = []
    _compare("", planned.model_dump(exclude=set(_NOT_COMPARED)), now.model_dump(exclude=set(_NOT_COMPARED)), found)
    # The file's digest changes with every comma: the setting that changed is said first.
    return sorted(found, key=lambda sentence: sentence.startswith("protocol_file"))


def _compare(place: str, planned: object, now: object, found: list[str]) -> None:
    if isinstance(planned, dict) and isinstance(now, dict):
        for key in planned:
            _compare(f"{place}.{key}" if place else key, planned[key], now.get(key), found)
    elif isinstance(planned, tuple) and isinstance(now, tuple) and len(planned) == len(now):
        for index, (one, two) in enumerate(zip(planned, now, strict=True)):
            _compare(f"{place}.{index}", one, two, found)
    elif planned != now:
        found.append(f"{place}: planned {planned}, now {now}")
