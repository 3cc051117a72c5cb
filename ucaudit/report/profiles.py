"""Report profiles: which framework a report speaks to. A profile is a TOML file, never code."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.core.resources import resource_root

Strength = Literal["direct", "supporting", "not covered"]
Words = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
Anchor = Literal[
    "determination",
    "scope",
    "identification",
    "results",
    "charts",
    "exceptions",
    "change",
    "controls",
    "signoff",
    "verification",
    "digests",
    "record",
    "glossary",
]
ANCHORS: Final[tuple[str, ...]] = get_args(Anchor)
"""The sections a control row may point to, in the order of the report."""
_MAX_PROFILE: Final = 1 << 20


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ControlRow(_Data):
    """One control, criterion or provision, and what this evidence gives it.

    Attributes:
        ids: the identifier in each mapping column.
        about: its subject in our own words.
        strength: how far the evidence reaches.
        evidence: what the evidence is.
        sections: where it is in the report.
        remains: what the institution still has to show.
    """

    ids: tuple[Words, ...]
    about: Words
    strength: Strength
    evidence: Words
    sections: tuple[Anchor, ...] = ()
    remains: Words | None = None


class Note(_Data):
    """A titled paragraph of the profile."""

    title: Words
    text: Words


class Profile(_Data):
    """One profile, as its file says.

    Attributes:
        sections: blocks of the template that only some profiles print.
        attach_record: whether the PDF carries the signed envelope (PDF/A-2 must not).
    """

    slug: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    aliases: tuple[str, ...] = ()
    version: Words
    title: Words
    framework: Words
    classification: Words
    pdf_variant: Literal["pdf/a-2a", "pdf/a-3a"]
    attach_record: bool
    mapping_columns: Annotated[tuple[Words, ...], Field(min_length=1, max_length=2)]
    sections: tuple[Literal["tests-performed", "model-risk", "traceability", "signing-block"], ...] = ()
    scope: Annotated[tuple[Words, ...], Field(min_length=1)]
    notes: tuple[Note, ...] = ()
    controls: Annotated[tuple[ControlRow, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for row in self.controls:
            if len(row.ids) != len(self.mapping_columns):
                raise ValueError(f"control {row.ids[0]!r} needs one identifier a mapping column")
        if self.attach_record and self.pdf_variant == "pdf/a-2a":
            raise ValueError("a pdf/a-2a file may not carry the record")
        if not any(row.strength == "not covered" for row in self.controls):
            raise ValueError("a mapping lists what is not covered, too")
        return self

    def covered(self) -> tuple[ControlRow, ...]:
        """The rows that this evidence speaks to."""
        return tuple(row for row in self.controls if row.strength != "not covered")

    def not_covered(self) -> tuple[ControlRow, ...]:
        """The rows that it does not."""
        return tuple(row for row in self.controls if row.strength == "not covered")


def profile_names() -> tuple[str, ...]:
    """The slugs of the built-in profiles."""
    return tuple(_builtin())


def load_profile(name: str) -> Profile:
    """A profile by slug, alias, or path of a ``.toml`` file.

    Raises:
        NotFoundError: no such profile or file.
        InputError: the file is not a profile.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    for profile in _builtin().values():
        if name in (profile.slug, *profile.aliases):
            return profile
    known = ", ".join(profile_names())
    raise NotFoundError("no such profile", subject=name, hint=f"known: {known}, or the path of a .toml file")


def read_profile(path: Path) -> Profile:
    """Read one profile file. Raises NotFoundError, InputError."""
    data = read_limited(path, _MAX_PROFILE)
    try:
        return Profile.model_validate(tomllib.loads(data.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not toml: {error}", subject=str(path), hint="see docs/report.md") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "profile"
        raise InputError(
            f"{place}: {first['msg'].lower()}", subject=str(path), hint="see docs/report.md"
        ) from error


@lru_cache(maxsize=1)
def _builtin() -> dict[str, Profile]:
    root = resource_root("templates") / "profiles"
    order = {"soc2": 0, "sr-11-7": 1, "fda": 2}
    found = [read_profile(path) for path in sorted(root.glob("*.toml"))]
    return {item.slug: item for item in sorted(found, key=lambda item: (order.get(item.slug, 9), item.slug))}
