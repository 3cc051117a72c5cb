"""A control mapping as this room sees it: structural, because it may not import the room of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Control(Protocol):
    """One row of a profile's control mapping, as a profile of the report has it."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The identifier in each mapping column."""

    @property
    def about(self) -> str:
        """Its subject."""

    @property
    def strength(self) -> str:
        """``direct``, ``supporting`` or ``not covered``."""

    @property
    def evidence(self) -> str:
        """What the evidence is."""

    @property
    def sections(self) -> Sequence[str]:
        """Where the report has it."""

    @property
    def remains(self) -> str | None:
        """What the institution still has to show."""


class ControlMapping(Protocol):
    """A report profile, as far as it is needed here."""

    @property
    def slug(self) -> str:
        """Its name."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def title(self) -> str:
        """Its title."""

    @property
    def framework(self) -> str:
        """The framework that the identifiers are of."""

    @property
    def mapping_columns(self) -> tuple[str, ...]:
        """What the identifiers are called."""

    @property
    def scope(self) -> Sequence[str]:
        """For whom it is written, and what it leaves out."""

    @property
    def controls(self) -> Sequence[Control]:
        """The rows."""

    @property
    def severity(self) -> Mapping[Any, str]:
        """How grave the profile calls each kind of finding."""
