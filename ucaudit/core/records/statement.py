"""in-toto Statement v1: subjects by digest, and one of our predicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from ucaudit.core import strictjson
from ucaudit.core.digest import is_hex_digest
from ucaudit.core.errors import MalformedRecordError, UnsupportedSchemaError
from ucaudit.core.records.attestation import Attestation
from ucaudit.core.records.base import PREDICATE_PREFIX, Record
from ucaudit.core.records.floor import Floor, FloorPlan
from ucaudit.core.records.others import Abandonment, BundleClosing, Endorsement, Plan, SeedContribution
from ucaudit.core.records.problems import first_problem

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_SUBJECTS: Final = 10_100

PREDICATES: Final[dict[str, type[Record]]] = {
    f"{PREDICATE_PREFIX}attestation:v1": Attestation,
    f"{PREDICATE_PREFIX}plan:v1": Plan,
    f"{PREDICATE_PREFIX}abandonment:v1": Abandonment,
    f"{PREDICATE_PREFIX}seed:v1": SeedContribution,
    f"{PREDICATE_PREFIX}endorsement:v1": Endorsement,
    f"{PREDICATE_PREFIX}floor:v1": Floor,
    f"{PREDICATE_PREFIX}floorplan:v1": FloorPlan,
    f"{PREDICATE_PREFIX}bundle:v1": BundleClosing,
}
"""Predicate type → model. A type that is not here is never read as one that is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about: a name for people, a SHA-256 for machines."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was parsed from signed bytes, or is about to be signed."""

    predicate_type: str
    subjects: tuple[Subject, ...]
    predicate: Record

    def to_bytes(self) -> bytes:
        """The payload to sign."""
        return strictjson.dumps(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": item.name, "digest": {"sha256": item.sha256}} for item in self.subjects],
                "predicateType": self.predicate_type,
                "predicate": self.predicate.model_dump(mode="json", by_alias=True),
            }
        )

    def digest_of(self, name: str) -> str | None:
        """The digest of the subject called ``name``, if there is one."""
        return next((item.sha256 for item in self.subjects if item.name == name), None)


def predicate_type(model: type[Record]) -> str:
    """The predicate type URI of a model."""
    return next(uri for uri, known in PREDICATES.items() if known is model)


def make_statement(predicate: Record, subjects: Sequence[Subject]) -> Statement:
    """A statement of a predicate over subjects."""
    return Statement(predicate_type(type(predicate)), tuple(subjects), predicate)


def parse_statement(payload: bytes, *, subject: str) -> Statement:
    """Read a signed payload. The signature must have been checked before.

    Raises:
        MalformedRecordError: not strict JSON, not a statement, or a predicate that does not fit its model.
        UnsupportedSchemaError: another statement type, or a predicate type this release does not know.
    """
    document = strictjson.loads(payload, subject=subject)
    if not isinstance(document, dict):
        raise MalformedRecordError("the statement is not a json object", subject=subject)
    if document.get("_type") != STATEMENT_TYPE:
        raise UnsupportedSchemaError(
            f"statement type {str(document.get('_type'))[:80]!r}, expected {STATEMENT_TYPE!r}", subject=subject
        )
    if set(document) != {"_type", "subject", "predicateType", "predicate"}:
        raise MalformedRecordError("the statement has missing or unknown members", subject=subject)
    uri = document["predicateType"]
    model = PREDICATES.get(uri) if isinstance(uri, str) else None
    if model is None:
        raise UnsupportedSchemaError(
            f"predicate type {str(uri)[:80]!r} is not known to this release",
            subject=subject,
            hint="a newer ucaudit may read it",
        )
    try:
        predicate = model.model_validate_json(strictjson.dumps(document["predicate"]))
    except ValidationError as error:
        raise MalformedRecordError(first_problem(error, within="predicate"), subject=subject) from error
    return Statement(uri, _subjects(document["subject"], subject), predicate)


def _subjects(value: object, subject: str) -> tuple[Subject, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SUBJECTS:
        raise MalformedRecordError(f"a statement has 1 to {MAX_SUBJECTS} subjects", subject=subject)
    result = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"name", "digest"} or not isinstance(item["name"], str):
            raise MalformedRecordError("a malformed subject", subject=subject)
        digest = item["digest"]
        if not isinstance(digest, dict) or set(digest) != {"sha256"} or not isinstance(digest["sha256"], str):
            raise MalformedRecordError("a subject without exactly one sha256 digest", subject=subject)
        if not is_hex_digest(digest["sha256"]):
            raise MalformedRecordError("a subject digest is not sha-256 hex", subject=subject)
        result.append(Subject(item["name"], digest["sha256"]))
    if len({item.name for item in result}) != len(result):
        raise MalformedRecordError("two subjects have one name", subject=subject)
    return tuple(result)
