"""Earlier attestations for the comparison: named one by one, or found in a folder of bundles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ucaudit.core.errors import NotFoundError
from ucaudit.core.records import Attestation, parse_time
from ucaudit.evidence.archive import bundle_directory
from ucaudit.evidence.bundle import OpenBundle, holds_bundle, open_bundle


@contextmanager
def previous_bundles(paths: Iterable[Path], now: OpenBundle) -> Iterator[list[OpenBundle]]:
    """Open the earlier bundles, and close what was unpacked for it afterwards.

    Args:
        paths: bundles (directories or ``.zip``), or folders of bundles. Of a folder those are taken that were made
            before ``now`` and are about a pack of the same name or the same reference state; floors are about
            none, and a bundle that cannot be read is an error, never left out in silence.
        now: the bundle that is rendered; found in a folder, it is not its own predecessor.

    Raises:
        NotFoundError: a path is not there, or a folder holds no earlier attestation.
        InputError, VerificationError: a bundle that cannot be read.
    """
    with ExitStack() as stack:
        found: list[OpenBundle] = []
        for path in paths:
            if path.is_dir() and not holds_bundle(path):
                found += _in_folder(path, now)
            else:
                found.append(open_bundle(stack.enter_context(bundle_directory(path))))
        yield found


def _in_folder(folder: Path, now: OpenBundle) -> list[OpenBundle]:
    record = now.record
    places = [place for place in sorted(folder.iterdir()) if place.is_dir() and holds_bundle(place)]
    bundles = (open_bundle(place) for place in places if not place.name.startswith("."))
    chosen = [bundle for bundle in bundles if bundle.attestation.digest != now.attestation.digest]
    chosen = [bundle for bundle in chosen if not bundle.is_floor and _precedes(bundle.record, record)]
    if not chosen:
        raise NotFoundError(
            "holds no earlier attestation of this pack or its reference",
            subject=str(folder),
            hint="without --previous the report says that no change was assessed",
        )
    return chosen


def _precedes(before: Attestation, now: Attestation) -> bool:
    same = before.pack.name == now.pack.name or before.reference.state_digest == now.reference.state_digest
    return same and parse_time(before.created) <= parse_time(now.created)
