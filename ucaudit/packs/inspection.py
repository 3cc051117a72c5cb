"""What can be said about a pack without decoding it. Light."""

from __future__ import annotations

from dataclasses import dataclass

from ucaudit.core.digest import FileManifest, StateManifest
from ucaudit.core.errors import MalformedPackError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.packs.codecs.base import Provenance, TensorSource


@dataclass(frozen=True, slots=True)
class Inspection:
    """The findings.

    Attributes:
        files: every file's digest, if files were hashed.
        published: the state the pack publishes, if it does and it is well formed.
        provenance: what the pack says about its making.
        contradictions: sentences, one for each claim of the pack's own manifest that its files contradict.
    """

    files: FileManifest | None
    published: StateManifest | None
    provenance: Provenance
    contradictions: list[str]


def inspect_source(source: TensorSource, *, hash_files: bool = True, progress: Progress = SILENT) -> Inspection:
    """Hash a pack's files and compare them with its own claims.

    Args:
        source: an opened pack.
        hash_files: False leaves the files' contents unread.
        progress: told about hashed bytes.

    Raises:
        InputError: a file changed while it was read.
    """
    contradictions: list[str] = []
    files = None
    if hash_files:
        progress.start(source.pack.total_bytes, "bytes", "hashing the pack")
        files = source.pack.file_manifest(progress=progress.advance)
        progress.finish()
        contradictions += source.contradicted_claims(files)
    published = None
    try:
        published = source.published_state()
    except MalformedPackError as error:
        contradictions.append(str(error))
    return Inspection(files, published, source.provenance(), contradictions)
