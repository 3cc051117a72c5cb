"""What all signed records have in common: frozen, no unknown members, strict types, lowerCamelCase on the wire."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Final

# A pydantic plug-in that happens to be installed could change what validation means, and looking for one costs
# start-up time. Read once, when the first model is made.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

PREDICATE_PREFIX: Final = "urn:ucaudit:predicate:"


class Record(BaseModel):
    """Base of every model that is signed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # only what is really validated is built: half the start-up time of verify
    )


def parse_time(text: str) -> datetime:
    """A record's time as an aware datetime; a 31 February raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _on_the_calendar(text: str) -> str:
    try:
        parse_time(text)
    except ValueError as error:
        raise PydanticCustomError("calendar", "not a day and time of the calendar") from error
    return text


SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
TIMESTAMP_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
SLUG_PATTERN: Final = r"^[a-z0-9][a-z0-9.-]{0,79}$"
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN), Field(description="SHA-256, lower-case hex")]
Timestamp = Annotated[
    str,
    StringConstraints(pattern=TIMESTAMP_PATTERN),
    AfterValidator(_on_the_calendar),
    Field(description="RFC 3339, UTC, whole seconds"),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Slug = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]
Count = Annotated[int, Field(ge=0, le=2**53)]


def now() -> str:
    """This moment in the record's form."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Tool(Record):
    """The program that made a record."""

    name: Name
    version: Name


class NamedDigest(Record):
    """A file by name and SHA-256."""

    name: Name
    sha256: Sha256
