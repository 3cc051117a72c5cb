"""The state a reconstruction is expected to have: from a file, a digest, a directory, or the pack itself. Light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core.digest import STATE_MANIFEST_NAME, StateManifest, is_hex_digest
from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.packs.codecs.base import TensorSource

MAX_STATE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Expected:
    """What to compare with.

    Attributes:
        origin: where it comes from, in words; None if there is nothing to compare with.
        digest: the expected state digest.
        state: the whole manifest, if it is known: then each drifted tensor can be named.
    """

    origin: str | None = None
    digest: str | None = None
    state: StateManifest | None = None

    def drift(self, found: StateManifest) -> list[str]:
        """Sentences that say what differs; empty if nothing does, or if nothing is expected."""
        if self.digest is None or found.digest == self.digest:
            return []
        if self.state is not None:
            return found.drift_from(self.state)
        return [f"expected state digest {self.digest}, found {found.digest}"]


def read_expected(expect: str | None, source: TensorSource) -> Expected:
    """Find what to compare with.

    Args:
        expect: 64 hex digits, a ``STATE`` file, a directory with one (a bundle, a pack); None for what the
            pack publishes.
        source: the opened pack.

    Raises:
        NotFoundError: no such file.
        InputError: neither a digest nor a path.
        MalformedRecordError, MalformedPackError: a ``STATE`` file that is not well formed.
    """
    if expect is None:
        published = source.published_state()
        if published is None:
            return Expected()
        return Expected("the state that the pack publishes", published.digest, published)
    if is_hex_digest(expect.lower()):
        return Expected("the given digest", expect.lower())
    path = Path(expect)
    if path.is_dir():
        path /= STATE_MANIFEST_NAME
    if not path.exists():
        if len(expect) in (63, 64, 65) and "/" not in expect:
            raise InputError("not a state digest: expected 64 hex digits", subject=expect[:80])
        raise NotFoundError("no such STATE file", subject=str(path))
    state = StateManifest.parse(read_limited(path, MAX_STATE_BYTES), subject=str(path))
    return Expected(str(path), state.digest, state)
