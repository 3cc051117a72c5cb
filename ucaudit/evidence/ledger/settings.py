"""``ledger.json``: the ledger's name and verifier key, as the ledger itself states them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ucaudit.core import strictjson
from ucaudit.core.errors import MalformedKeyError, MalformedRecordError, NotFoundError, UnsupportedSchemaError
from ucaudit.core.files import read_limited
from ucaudit.evidence.ledger.note import VerifierKey

SETTINGS_NAME: Final = "ledger.json"
_FORMAT: Final = "ucaudit-ledger"
_VERSION: Final = 1
_MAX_SETTINGS: Final = 1 << 16


def encode_settings(key: VerifierKey) -> bytes:
    """The content of ``ledger.json``."""
    members = {"format": _FORMAT, "version": _VERSION, "origin": key.name, "vkey": key.encode()}
    return strictjson.dumps(members) + b"\n"


def read_settings(path: Path) -> VerifierKey:
    """The verifier key that the ledger in directory ``path`` names.

    Raises:
        NotFoundError: no ledger there.
        MalformedRecordError, MalformedKeyError, UnsupportedSchemaError: settings that are none.
    """
    place = path / SETTINGS_NAME
    try:
        data = read_limited(place, _MAX_SETTINGS)
    except NotFoundError as error:
        raise NotFoundError("not a ledger", subject=str(path), hint="start one with ucaudit ledger init") from error
    settings = strictjson.loads(data, subject=str(place))
    if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
        raise MalformedRecordError("not a ledger's settings", subject=str(place))
    if settings.get("version") != _VERSION:
        raise UnsupportedSchemaError(
            f"ledger version {str(settings.get('version'))[:40]}, expected {_VERSION}", subject=str(place)
        )
    if set(settings) != {"format", "version", "origin", "vkey"} or not isinstance(settings["vkey"], str):
        raise MalformedRecordError("missing or unknown members", subject=str(place))
    key = VerifierKey.parse(settings["vkey"], subject=str(place))
    if settings["origin"] != key.name:
        raise MalformedKeyError("origin and verifier key have different names", subject=str(place))
    if data != encode_settings(key):
        raise MalformedRecordError("the settings are not in their canonical spelling", subject=str(place))
    return key
