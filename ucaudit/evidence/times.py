"""Trusted times: moments at which somebody outside saw the bytes of an envelope.

A record's own time is its signer's word. A time-stamp authority's token over an envelope's SHA-256, or a ledger
checkpoint that a trusted witness cosigned at a moment it names, shows that the envelope existed by then. Both
give a :class:`TrustedTime`; keys are judged by the earliest one of their envelope.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ucaudit.evidence.trust.model import show_time

CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far two honest clocks may disagree before a claimed time counts as contradicted."""


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """``source`` saw the envelope with SHA-256 ``digest`` no later than ``moment``."""

    digest: str
    """SHA-256 of the envelope file, hex."""
    moment: datetime
    """UTC, with the source's stated inaccuracy already added."""
    source: str
    """For people: ``time-stamp authority NAME`` or ``witness NAME``."""

    def __str__(self) -> str:
        return f"seen by {show_time(self.moment)} ({self.source})"


class TrustedTimes:
    """The trusted times of a bundle's envelopes."""

    def __init__(self, times: Iterable[TrustedTime] = ()) -> None:
        self._earliest: dict[str, TrustedTime] = {}
        for time in times:
            self.add(time)

    def add(self, time: TrustedTime) -> None:
        """Take one more into account."""
        known = self._earliest.get(time.digest)
        if known is None or time.moment < known.moment:
            self._earliest[time.digest] = time

    def seen(self, digest: str) -> TrustedTime | None:
        """The earliest trusted time of an envelope, None if there is none."""
        return self._earliest.get(digest)
