"""Everything an attestation needs, checked before the first tensor is read: minutes, not hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import InputError, RefusedError
from ucaudit.core.files import require_outside, require_space, require_writable_directory
from ucaudit.core.stats import RESAMPLES
from ucaudit.core.stats.estimates import one_sided_alpha
from ucaudit.lab.corpus import Corpus
from ucaudit.lab.measure_memory import Execution, choose_execution
from ucaudit.lab.measure_plan import MeasurementPlan, plan_measurement
from ucaudit.lab.planning import evaluation_text, require_distinct
from ucaudit.lab.preregistered import Planned, require_plan
from ucaudit.packs.codecs import open_source
from ucaudit.packs.opened import open_pack
from ucaudit.packs.state import require_same_tensors

if TYPE_CHECKING:
    from ucaudit.lab.attest import Request

_BYTES_A_TOKEN: Final = 2 * 13
"""Three floats and a byte, once as saved windows and once in the bundle."""
_OTHER_BYTES: Final = 32 << 20
_BYTES_A_NAME: Final = 400
"""Lines of STATE and of the file manifests."""


@dataclass(frozen=True)
class Preflight:
    """What the checks found out.

    Attributes:
        corpus: the evaluation text, read.
        plan: what will be measured, and what it takes.
        planned: the plan in the ledger, if the measurement was pre-registered.
        execution: whether the models fit into memory, or run layer by layer.
        decoded_bytes: of all tensors of pack and reference.
        disk_bytes: what will be written.
    """

    corpus: Corpus
    plan: MeasurementPlan
    planned: Planned | None
    execution: Execution
    decoded_bytes: int
    disk_bytes: int


def preflight(request: Request) -> Preflight:
    """Check paths, output, disk, memory, text, key, plan, ledger, and that pack and reference fit each other.

    Nothing is written, not even a directory.

    Raises:
        UcauditError: whatever is missing, malformed or contradictory.
    """
    rules = request.policy.policy
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise RefusedError("exists already and is not empty", subject=str(request.out), hint="choose another --out")
    require_outside(request.out, request.pack, request.reference)
    require_writable_directory(request.out.parent)
    if rules.measurement.n < 2:
        raise InputError(
            "n = 1: an interval needs at least 2 windows",
            subject=str(request.policy.path),
            hint="30 are needed to pass a claim",
        )
    if one_sided_alpha(rules.claims.confidence) * (RESAMPLES + 1) < 1:
        raise InputError(
            f"{RESAMPLES} resamples cannot resolve a confidence of {rules.claims.confidence!r}",
            subject=str(request.policy.path),
            hint="0.999 is the most that the bootstrap interval serves",
        )
    if request.ledger is not None:
        _require_ledger(request, request.ledger)
    planned = require_plan(request)
    corpus = evaluation_text(request.policy, request.corpus)
    with (
        open_source(open_pack(request.pack, excludes=rules.gate.exclude)) as source,
        open_source(request.reference) as reference,
    ):
        require_distinct(source.pack, reference.pack)
        require_same_tensors(source, reference)
        plan = plan_measurement(
            source,
            reference,
            corpus,
            n=rules.measurement.n,
            seq_len=rules.measurement.seq_len,
            seed=rules.measurement.seed if planned is None or planned.seed is None else planned.seed,
            dtype=rules.measurement.dtype,
            allow_overlap=request.allow_overlap,
            calibration=request.calibration,
        )
        decoded = sum(spec.nbytes for opened in (source, reference) for spec in opened.specs)
        lines = len(source.specs) + len(source.pack.files) + len(reference.pack.files)
    disk = plan.scored_tokens * _BYTES_A_TOKEN + lines * _BYTES_A_NAME + _OTHER_BYTES
    require_space(request.out, disk, hint="choose an --out on another disk")
    return Preflight(corpus, plan, planned, choose_execution(plan.memory, request.device), decoded, disk)


def _require_ledger(request: Request, path: Path) -> None:
    from ucaudit.evidence.ledger import Ledger

    ledger = Ledger.open(path)
    ledger.require_key(request.ledger_signer or request.signer)
    require_writable_directory(path)
