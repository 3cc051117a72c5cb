"""An unfinished pack: a hidden directory beside the one that it becomes, from which the same command goes on.

``.NAME.packing/KEY[:16]/`` holds the pack's files so far, a note on each finished layer, and the hidden states of
the calibration text behind the last one. KEY is a digest of everything that decides the pack's bytes, so a run with
another option, text, checkpoint or version starts afresh, and takes the old directory away as soon as it has
finished a layer of its own. It never looks like a pack: the manifest is written last, and the name is given after
that.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ucaudit.core.errors import InputError, OutputError, RefusedError
from ucaudit.core.files import (
    locked_directory,
    make_directory,
    output_error,
    read_limited,
    remove_leftovers,
    require_unused,
    sync_directory,
    write_text,
)
from ucaudit.packs.codecs.ucq_encode import PackWriter, WrittenFile

_KEY_CHARACTERS: Final = 16
_OURS: Final = re.compile(rf"[0-9a-f]{{{_KEY_CHARACTERS}}}")
_PACK: Final = "pack"
_STATE: Final = "state"
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
        self._root = root
        self._own = root / key[:_KEY_CHARACTERS]
        self.pack = self._own / _PACK
        self.state = self._own / _STATE
        for directory in (self.pack, self.state):
            remove_leftovers(make_directory(directory))

    def prevail(self) -> None:
        """Take away what runs with other options left: this one has something of its own to keep."""
        for other in self._root.iterdir():
            if other != self._own and _is_run(other):
                shutil.rmtree(other, ignore_errors=True)

    def remove(self) -> None:
        """Take this run away."""
        shutil.rmtree(self._own, ignore_errors=True)

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


def require_place(out: Path) -> Path:
    """Refuse, before anything is done, an output that no pack can be made at; creates nothing.

    Returns:
        The same place with a name of its own: ``.`` has none.

    Raises:
        RefusedError: it exists and is not empty, is the working directory, or the unfinished work beside it is not
            ours.
        InputError: a name that is not valid unicode.
        OutputError: a name that is too long, or a directory that may not be looked into.
    """
    try:
        require_unused(out, hint="choose another --out")
    except OSError as error:
        raise output_error(out, error) from error
    place = Path(os.path.realpath(out))
    require_text(place.name, subject=str(out), what="the pack's name")
    if place.is_dir() and place.samefile(os.curdir):
        raise RefusedError(
            "it is the working directory, and would be replaced",
            subject=str(out),
            hint="run this from outside, or choose another --out",
        )
    _require_ours(_work_of(place))
    return place


def require_text(name: str, *, subject: str, what: str) -> None:
    """Refuse a name that a record cannot hold. Raises InputError."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} is not valid unicode, and belongs into the manifest", subject=subject, hint="rename it"
        ) from error
    if not name:
        raise InputError(f"{what} is empty, and belongs into the manifest", subject=subject)


def _work_of(place: Path) -> Path:
    return place.with_name(f".{place.name}.packing")


def _require_ours(root: Path) -> None:
    """Refuse to work where something lies that is not an unfinished run; without the lock, runs may come and go.

    Raises:
        RefusedError: something there was not made by a run of ours, and would be taken away with them.
        OutputError: it may not be looked into.
    """
    try:
        linked = root.is_symlink()
        found = sorted(root.iterdir()) if root.is_dir() and not linked else []
        strange = [root] if linked else [entry for entry in found if not _is_run(entry) and os.path.lexists(entry)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(root, error) from error
    if strange:
        raise RefusedError(
            "no unfinished pack: ucaudit made nothing of this kind, and takes nothing else away",
            subject=str(strange[0]),
            hint="move it away, or choose another --out",
        )


def _is_run(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_dir() or not _OURS.fullmatch(entry.name):
        return False
    return all(part.name in (_PACK, _STATE) and not part.is_symlink() for part in entry.iterdir())


@contextmanager
def unfinished(place: Path, key: str, waiting: Callable[[], None] | None = None) -> Iterator[Run]:
    """Work on a pack that becomes ``place`` at the end. Interrupted, it stays for the next call with the same key.

    Args:
        place: of :func:`require_place`.
        key: of the run.
        waiting: called if another run works on the same pack, before this one waits for it.

    Raises:
        RefusedError: ``place`` exists and is not empty, perhaps only since that other run is done; or the
            unfinished work beside it is not ours.
        OutputError: it cannot be made.
    """
    make_directory(place.parent)
    root = _work_of(place)
    _require_ours(root)
    with locked_directory(root, make=True, waiting=waiting):
        try:
            require_unused(place, hint="choose another --out")
            _require_ours(root)
            run = Run(root, key)
            try:
                yield run
            except BaseException as error:
                # The same input would fail in the same way: nothing to go on from.
                if isinstance(error, InputError) or not any(run.state.iterdir()):
                    run.remove()
                raise
            try:
                if place.exists():
                    place.rmdir()
                run.pack.rename(place)
            except OSError as error:
                raise OutputError(f"cannot write: {error.strerror}", subject=str(place)) from error
            sync_directory(place.parent)
            run.prevail()
            run.remove()
        finally:
            with suppress(OSError):
                root.rmdir()  # stays as long as there is something to go on from
