"""Report profiles: which framework a report speaks to.

A profile is data: a TOML file, or a folder with ``profile.toml`` and an institution's own logo and sections.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.core.records.problems import first_problem
from ucaudit.core.resources import resource_root
from ucaudit.report.findings import FindingSlug, Severity
from ucaudit.report.house import Look, read_logo, read_template

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
    "frameworks",
]
ANCHORS: Final[tuple[str, ...]] = get_args(Anchor)
"""The sections a control row may point to, in the order of the report."""
_MAX_PROFILE: Final = 1 << 20
PROFILE_FILE: Final = "profile.toml"
"""The file in a profile's folder."""
Block = Literal[
    "tests-performed", "population", "model-risk", "findings", "traceability", "signing-block", "version-history"
]


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


class ExtraSection(_Data):
    """A section that a profile's folder adds.

    Attributes:
        title: its heading, also in the contents and the bookmarks.
        template: a Jinja file in the folder.
        after: the section that it follows.
    """

    title: Annotated[str, StringConstraints(min_length=1, max_length=80)]
    template: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    after: Anchor

    @model_validator(mode="after")
    def _not_before_the_limitations(self) -> ExtraSection:
        if self.after == "determination":
            raise ValueError("the limitations come second: nothing may follow determination but them")
        return self


class Profile(_Data):
    """One profile, as its file says.

    Attributes:
        sections: blocks of the template that only some profiles print.
        attach_record: whether the PDF carries the signed envelope (PDF/A-2 must not).
        severity: how grave each kind of finding is; what is not named is printed as not set.
        look: colours and logo.
        extra: sections of the folder's own.
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
    sections: tuple[Block, ...] = ()
    scope: Annotated[tuple[Words, ...], Field(min_length=1)]
    notes: tuple[Note, ...] = ()
    controls: Annotated[tuple[ControlRow, ...], Field(min_length=1)]
    severity: dict[FindingSlug, Severity] = {}
    look: Look = Look()
    extra: tuple[ExtraSection, ...] = ()
    _logo: str | None = PrivateAttr(None)
    _templates: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def logo(self) -> str | None:
        """The logo as a ``data:`` address."""
        return self._logo

    def template(self, section: ExtraSection) -> str:
        """The text of an extra section's template."""
        return self._templates[section.template]

    def load_from(self, folder: Path) -> None:
        """Read logo and templates. Raises NotFoundError, InputError."""
        if self.look.logo is not None:
            self._logo = read_logo(folder, self.look.logo)
        self._templates = {item.template: read_template(folder, item.template) for item in self.extra}

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
    """A profile by slug, alias, or path of a ``.toml`` file or of a folder that holds ``profile.toml``.

    Raises:
        NotFoundError: no such profile or file.
        InputError: the file is not a profile.
    """
    for profile in _builtin().values():
        if name in (profile.slug, *profile.aliases):
            return profile
    if name.endswith(".toml"):
        return read_profile(Path(name))
    if name and Path(name).is_dir():
        return read_profile(Path(name) / PROFILE_FILE)
    known = ", ".join(profile_names())
    raise NotFoundError(
        "no such profile", subject=name, hint=f"known: {known}, or the path of a folder or .toml file"
    )


def read_profile(path: Path) -> Profile:
    """Read one profile file and what it names beside it. Raises NotFoundError, InputError."""
    data = read_limited(path, _MAX_PROFILE)
    try:
        profile = Profile.model_validate(tomllib.loads(data.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not toml: {error}", subject=str(path), hint="see docs/report.md") from error
    except ValidationError as error:
        raise InputError(first_problem(error), subject=str(path), hint="see docs/report.md") from error
    profile.load_from(path.parent)
    return profile


@lru_cache(maxsize=1)
def _builtin() -> dict[str, Profile]:
    root = resource_root("templates") / "profiles"
    order = {"soc2": 0, "sr-11-7": 1, "fda": 2}
    found = [read_profile(path) for path in sorted(root.glob("*.toml"))]
    return {item.slug: item for item in sorted(found, key=lambda item: (order.get(item.slug, 9), item.slug))}
