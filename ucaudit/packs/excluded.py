"""What a record leaves out of the pack digest, and so out of every comparison of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from ucaudit.core.errors import DigestMismatchError
from ucaudit.core.records import Attestation
from ucaudit.evidence.checks import Verification
from ucaudit.packs.opened import MAX_FILES
from ucaudit.packs.sniff import PICKLE_SUFFIXES

TENSOR_SUFFIXES: Final = PICKLE_SUFFIXES | {
    ".gguf", ".h5", ".msgpack", ".npy", ".npz", ".onnx", ".safetensors", ".uc"
}  # fmt: skip
_LOADED_SUFFIXES: Final = frozenset({".jinja", ".json", ".model", ".py"})
_LOADED_NAMES: Final = frozenset({"merges.txt", "vocab.txt"})


def is_loaded(path: str) -> bool:
    """Whether a file, by its path in a pack, is one that a loader would take tensors, settings or code from.

    Tensors count wherever they lie; settings and code do not below a hidden directory such as ``.git/``.
    """
    parts = path.lower().split("/")
    suffix = Path(parts[-1]).suffix
    if suffix in TENSOR_SUFFIXES:
        return True
    hidden = any(part.startswith(".") for part in parts[:-1])
    return not hidden and (suffix in _LOADED_SUFFIXES or parts[-1] in _LOADED_NAMES)


def check_excluded(record: Attestation, pack: Path, result: Verification, *, allowed: Sequence[str] = ()) -> bool:
    """List what the record's excludes hide in this pack; fail if a loader would read any of it.

    The excludes are the signer's. What lies there was not attested and is not compared, so that a tensor file there
    could be any.

    Args:
        record: the record.
        pack: the pack on disk.
        result: gets the check; nothing if the record leaves out nothing.
        allowed: excludes that the verifier's own policy lists: they are only remarked.

    Returns:
        Whether the pack without them is worth a look: a pack without one of its layers is none.
    """
    if not record.pack.excluded:
        return True
    what = "files that the record leaves out of the pack digest"
    listed, loaded = [], []
    for item in record.pack.excluded:
        files = list(islice(_below(pack, item), MAX_FILES))
        listed.append(f"{item} ({len(files)} file{'s' if len(files) != 1 else ''} here)")
        if item not in allowed:
            loaded += [name for name in files if is_loaded(name)]
    if loaded:
        more = f" and {len(loaded) - 3} more" if len(loaded) > 3 else ""
        problem = DigestMismatchError(
            f"{', '.join(sorted(loaded)[:3])}{more}: left out, and never compared with anything",
            subject=pack.name,
            hint="the signer chose to leave them out; a policy can allow it: [gate] exclude",
        )
        return result.add("excluded-files", what, problem, "", level="re-measured")
    result.remark("excluded-files", "warn", what, f"not compared, by the signer's choice: {', '.join(listed)}")
    return True


def _below(pack: Path, item: str) -> Iterator[str]:
    """The paths of the files that one exclude hides, links included and not followed."""
    name = item.removesuffix("/")
    if not item.endswith("/"):
        if os.path.lexists(pack / name):
            yield name
        return
    for place, _, files in os.walk(pack / name):
        yield from ((Path(place) / file).relative_to(pack).as_posix() for file in sorted(files))
