"""What an attestation will take: the preflight's answer for ``--dry-run``."""

from __future__ import annotations

from ucaudit.lab.preflight import Preflight

_HASH_BYTES_PER_SECOND = 400e6  # hashing and decoding together, a slow laptop's


def estimate(checked: Preflight, device: str) -> dict[str, str | int | float]:
    """Windows, tokens, memory, disk and time, before anything is computed.

    Args:
        checked: what :func:`ucaudit.lab.preflight.preflight` returned.
        device: ``cpu`` or ``cuda``.
    """
    plan = checked.plan
    reading = 3 * checked.decoded_bytes / _HASH_BYTES_PER_SECOND
    return {
        "windows": plan.windows.n,
        "windowsAvailable": plan.windows.available,
        "scoredTokens": plan.scored_tokens,
        "parameters": plan.parameters,
        "memoryGb": round(checked.execution.memory_bytes / 1e9, 2),
        "execution": str(checked.execution),
        "diskMb": round(checked.disk_bytes / 1e6),
        "minutes": round((plan.seconds(device) + reading) / 60, 1),
    }
