"""Half-open spans ``A:B``, as options, policies and records write them."""

from __future__ import annotations

import re
from typing import Final

from ucaudit.core.errors import InputError

SPAN_PATTERN: Final = r"^(?:[0-9]{0,15}:[0-9]{0,15}|-[0-9]{1,15}:)$"
_SPAN: Final = re.compile(SPAN_PATTERN)


def resolve_span(text: str, total: int, *, what: str) -> tuple[int, int]:
    """The span that ``text`` means among ``total`` items.

    Args:
        text: ``A:B`` from the A-th, counted from 0, up to but without the B-th; either may be left out. ``-K:`` is
            the last K.
        total: how many there are.
        what: of what, in the plural, for messages.

    Raises:
        InputError: another form, an empty span, or one that ends past the last item.
    """
    if not _SPAN.fullmatch(text):
        raise InputError(f"{what} are given as A:B, A:, :B or -K:, found {text[:40]!r}")
    first, _, last = text.partition(":")
    begin = max(total + int(first), -1) if first.startswith("-") else int(first or 0)
    end = int(last) if last else total
    if begin < 0 or not begin < end <= total:
        raise InputError(f"{what} {text} are asked for, there are {total}")
    return begin, end


def span_fits(asked: str, resolved: str) -> bool:
    """Whether ``resolved``, an ``A:B`` with both ends, is what ``asked`` can mean for some total."""
    begin, end = (int(part) for part in resolved.split(":"))
    first, _, last = asked.partition(":")
    if first.startswith("-"):
        return end - begin == -int(first)
    return begin == int(first or 0) and (not last or end == int(last))
