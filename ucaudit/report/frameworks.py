"""Other frameworks that readers ask for: one table, the same in every profile, from a versioned data file."""

from __future__ import annotations

import tomllib
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from ucaudit.core.resources import resource_root
from ucaudit.report.profiles import ControlRow, Words


class OtherFrameworks(BaseModel):
    """The table of appendix E. Every row names its framework and its provision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Words
    rows: tuple[ControlRow, ...]


@lru_cache(maxsize=1)
def other_frameworks() -> OtherFrameworks:
    """The packaged table."""
    path = resource_root("templates") / "mappings" / "other-frameworks.toml"
    return OtherFrameworks.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
