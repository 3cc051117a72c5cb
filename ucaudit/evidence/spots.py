"""Spot checks, the light part: what is drawn, with which chance it finds a lie, and how values are compared.

The draw hangs on a nonce that is made while verifying, so whoever signed cannot have known what would be looked at.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ucaudit.core.errors import InputError
from ucaudit.core.tokenvalues import TokenValues

T = TypeVar("T", int, str)
N = TypeVar("N", int, float)
NONCE_BYTES: Final = 32
_NONCE: Final = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass(frozen=True)
class SpotDraw:
    """Where to look: a function of the envelope and the nonce alone, so that anybody can repeat it.

    The challenge is SHA-256(envelope digest ‖ nonce), both as raw bytes. An item's rank is the SHA-256 of the
    UTF-8 text ``CHALLENGE\\nKIND\\nITEM``: the challenge in lower-case hex, ``tensor`` or ``window``, the tensor's
    name or the window's index in decimal. The smallest digests win.

    Attributes:
        envelope_digest: SHA-256 of the attestation's envelope, hex.
        nonce: lower-case hex.
        given: the nonce was handed in; then its origin decides what the check is worth.
    """

    envelope_digest: str
    nonce: str
    given: bool

    @classmethod
    def make(cls, envelope_digest: str, nonce: str | None) -> SpotDraw:
        """A draw with a fresh nonce, or a repetition. Raises InputError: not 1 to 64 bytes of hex."""
        if nonce is None:
            return cls(envelope_digest, secrets.token_hex(NONCE_BYTES), given=False)
        if not _NONCE.fullmatch(nonce.lower()):
            raise InputError(
                f"not a nonce: {nonce[:80]!r}", hint="give 2 to 128 hex digits, two a byte: openssl rand -hex 32"
            )
        return cls(envelope_digest, nonce.lower(), given=True)

    @property
    def challenge(self) -> str:
        """What the ranks hang on, hex."""
        return hashlib.sha256(bytes.fromhex(self.envelope_digest) + bytes.fromhex(self.nonce)).hexdigest()

    def pick(self, kind: str, items: Sequence[T], count: int) -> tuple[T, ...]:
        """``count`` of the items, or all if there are fewer, in the order in which they are given."""
        challenge = self.challenge

        def rank(item: T) -> bytes:
            return hashlib.sha256(f"{challenge}\n{kind}\n{item}".encode()).digest()

        chosen = set(sorted(items, key=rank)[:count])
        return tuple(item for item in items if item in chosen)


def chance_to_find(total: int, drawn: int, false: int) -> float:
    """The chance that ``drawn`` of ``total`` items, without replacement, hold one of ``false`` items at least."""
    return 1 - math.comb(total - false, drawn) / math.comb(total, drawn)


def describe_chance(total: int, drawn: int, one: str) -> str:
    """What a draw is worth, in words: ``one`` false item, and a tenth of all."""
    if drawn >= total:
        return f"all of them, so a single false {one} would have shown"
    tenth = max(2, math.ceil(total / 10))
    return (
        f"a single false {one} is found with a chance of {chance_to_find(total, drawn, 1):.1%}, "
        f"{tenth} false ones with {chance_to_find(total, drawn, tenth):.1%}"
    )


@dataclass(frozen=True)
class Agreement:
    """Signed values against measured ones.

    Attributes:
        equal: to the bit, all of them.
        largest: the largest difference of a value, nats.
        problems: sentences; empty if all lies within the tolerance.
    """

    equal: bool
    largest: float
    problems: tuple[str, ...]


def select(values: TokenValues, windows: Sequence[int]) -> TokenValues:
    """The values of some of the windows."""
    rows = [values.windows.index(window) for window in windows]
    t = values.tokens

    def column(of: array[N]) -> array[N]:
        result = of[:0]
        for row in rows:
            result += of[row * t : (row + 1) * t]
        return result

    documents = values.documents
    return TokenValues(
        windows=tuple(windows),
        tokens=t,
        reference=column(values.reference),
        pack=column(values.pack),
        kl=column(values.kl),
        top1=column(values.top1),
        documents=None if documents is None else tuple(documents[row] for row in rows),
    )


def compare_values(signed: TokenValues, again: TokenValues, *, tolerance: float, scored: int) -> Agreement:
    """Compare values per token within the tolerance of the measurement.

    ``tolerance`` is on ln ratio, a mean over all ``scored`` tokens, so one token stands for ``noise`` =
    tolerance · √scored, and a mean over m tokens for noise / √m. In each window and over all of them, for each of
    the reference's and the pack's log-probability, their difference, and the divergence: the mean may differ by
    noise / √m, and the root mean square of the differences may be ``noise``, so that values cannot be shuffled
    either. The most likely tokens of the two models may agree, or not, at m · noise tokens more or less, rounded
    up: two logits lie within a distance of each other at a share of tokens smaller than the distance in nats.

    Args:
        signed, again: of the same windows.
        tolerance: on ln ratio; 0 demands equality.
        scored: tokens in the whole measurement.
    """
    noise = tolerance * math.sqrt(scored)
    columns = {
        "reference's log-probability": (signed.reference, again.reference),
        "pack's log-probability": (signed.pack, again.pack),
        "difference of log-probabilities": (_gap(signed), _gap(again)),
        "kl divergence": (signed.kl, again.kl),
    }
    problems: list[str] = []
    t = signed.tokens
    places = [(f"window {window}", row * t, (row + 1) * t) for row, window in enumerate(signed.windows)]
    if signed.n > 1:
        places.append((f"{signed.n} windows together", 0, signed.n * t))
    for place, begin, end in places:
        m = end - begin
        for name, (mine, theirs) in columns.items():
            off = [b - a for a, b in zip(mine[begin:end], theirs[begin:end], strict=True)]
            mean, rms = math.fsum(off) / m, math.sqrt(math.fsum(value * value for value in off) / m)
            if not abs(mean) <= noise / math.sqrt(m):
                found = f"mean {name} measured {mean:+.3g} nats from the signed one"
                problems.append(f"{place}: {found}, at most {noise / math.sqrt(m):.3g}")
            elif not rms <= noise:
                found = f"{name} measured {rms:.3g} nats a token from the signed one"
                problems.append(f"{place}: {found}, at most {noise:.3g}")
        turned = sum(a != b for a, b in zip(signed.top1[begin:end], again.top1[begin:end], strict=True))
        if turned > math.ceil(m * noise):
            problems.append(
                f"{place}: top-1 agreement differs at {turned} of {m} tokens, at most {math.ceil(m * noise)}"
            )
    floats = [pair for name, pair in columns.items() if not name.startswith("difference")]
    return Agreement(
        equal=all(a == b for a, b in floats) and signed.top1 == again.top1,
        largest=max(abs(b - a) for mine, theirs in floats for a, b in zip(mine, theirs, strict=True)),
        problems=tuple(problems),
    )


def _gap(values: TokenValues) -> array[float]:
    return array("d", (a - b for a, b in zip(values.pack, values.reference, strict=True)))
