"""What an attestation will take: the preflight's answer for ``--dry-run``."""

from __future__ import annotations

from ucaudit.lab.attest import Request
from ucaudit.lab.measure_plan import plan_measurement
from ucaudit.lab.planning import evaluation_text
from ucaudit.packs.codecs import open_source

_HASH_BYTES_PER_SECOND = 400e6  # hashing and decoding together, a slow laptop's


def estimate(request: Request) -> dict[str, str | int | float]:
    """Windows, tokens, memory and time, before anything is computed.

    Args:
        request: one that passed :func:`ucaudit.lab.attest.preflight`.

    Raises:
        InputError: pack, reference and text do not fit each other.
    """
    rules = request.policy.policy.measurement
    with open_source(request.pack) as source, open_source(request.reference) as reference:
        plan = plan_measurement(
            source,
            reference,
            evaluation_text(request.policy, request.corpus),
            n=rules.n,
            seq_len=rules.seq_len,
            seed=rules.seed,
            dtype=rules.dtype,
            allow_overlap=request.allow_overlap,
            calibration=request.calibration,
        )
        decoded = sum(spec.nbytes for opened in (source, reference) for spec in opened.specs)
    reading = 3 * decoded / _HASH_BYTES_PER_SECOND
    return {
        "windows": plan.windows.n,
        "windowsAvailable": plan.windows.available,
        "scoredTokens": plan.scored_tokens,
        "parameters": plan.parameters,
        "memoryGb": round(plan.memory.whole / 1e9, 2),
        "minutes": round((plan.seconds(request.device) + reading) / 60, 1),
    }
