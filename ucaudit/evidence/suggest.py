"""Naming a mistyped setting, with the one that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ucaudit.core.errors import InputError, MalformedPolicyError


def refuse_unknown(
    table: Mapping[str, Any],
    known: Iterable[str],
    *,
    subject: str,
    place: str,
    error: type[InputError] = MalformedPolicyError,
) -> None:
    """Refuse members of a TOML table that nobody reads: a typo there would switch a check off.

    Raises:
        MalformedPolicyError: with did-you-mean; or ``error``, for another kind of file.
    """
    names = tuple(known)
    for name in table:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}" if close else f"known: {', '.join(names)}"
            where = f"[{place}] " if place else ""
            raise error(f"unknown setting {where}{name}", subject=subject, hint=hint)
