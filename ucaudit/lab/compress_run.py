"""An unfinished pack: a hidden directory beside the one that it becomes, from which the same command goes on.

``.NAME.packing/KEY[:16]/`` holds the pack's files so far, a note on each finished layer, and the hidden states of
the calibration text behind the last one. KEY is a digest of everything that decides the pack's bytes, so a run with
another option, text, checkpoint or version starts afresh, and takes the old directory away. It never looks like a
pack: the manifest is written last, and the name is given after that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ucaudit.core.errors import InputError, OutputError
from ucaudit.core.files import (
    locked_directory,
    make_directory,
    read_limited,
    remove_leftovers,
    require_unused,
    sync_directory,
    write_text,
)
from ucaudit.packs.codecs.ucq_encode import PackWriter, WrittenFile

_MAX_NOTE: Final = 1 << 28


class Run:
    """The files of one unfinished pack.

    Attributes:
        pack: the directory that becomes the pack.
        state: what only this run reads.
        key: of the run.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.key = key
        self._root = root / key[:16]
        self.pack = self._root / "pack"
        self.state = self._root / "state"
        for directory in (self.pack, self.state):
            remove_leftovers(make_directory(directory))

    def note(self, layer: int, written: WrittenFile | None) -> None:
        """Remember a finished layer: the file that holds it, or that nothing of it had to be stored."""
        write_text(self._note(layer), "null" if written is None else written.model_dump_json(by_alias=True))

    def adopt(self, layer: int, writer: PackWriter) -> bool:
        """Take up a finished layer; False if it has to be made again."""
        try:
            text = read_limited(self._note(layer), _MAX_NOTE)
            return text == b"null" or writer.adopt(WrittenFile.model_validate_json(text))
        except (InputError, ValidationError):
            return False

    def _note(self, layer: int) -> Path:
        return self.state / f"layer-{layer:05d}.json"


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Run]:
    """Work on a pack that becomes ``out`` at the end. Interrupted, it stays for the next call with the same key.

    Raises:
        RefusedError: ``out`` exists and is not empty.
        OutputError: it cannot be made.
    """
    require_unused(out, hint="choose another --out")
    root = make_directory(make_directory(out.parent) / f".{out.name}.packing")
    with locked_directory(root):
        for other in root.iterdir():
            if other.name != key[:16]:
                shutil.rmtree(other, ignore_errors=True)
        run = Run(root, key)
        try:
            yield run
        except BaseException as error:
            # The same input would fail in the same way: nothing to go on from.
            if isinstance(error, InputError) or not any(run.state.iterdir()):
                shutil.rmtree(root, ignore_errors=True)
            raise
        try:
            if out.exists():
                out.rmdir()
            run.pack.rename(out)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", subject=str(out)) from error
        sync_directory(out.parent)
        shutil.rmtree(root, ignore_errors=True)
