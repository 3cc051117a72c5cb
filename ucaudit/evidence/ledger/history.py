"""Every checkpoint a ledger ever signed, one a line: ``<size> <base64 root> <base64(key id ‖ signature)>``.

The line is what commits an append. It is on the disk before the checkpoint is published and after every tile and
entry it covers, so that after a crash the ledger is brought forward to it. It also keeps an older checkpoint, put
back in the place of a newer one, from going unnoticed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError, UcauditError
from ucaudit.core.files import open_regular, output_error, write_bytes
from ucaudit.evidence.ledger.note import (
    Checkpoint,
    NoteSignature,
    SignedNote,
    VerifierKey,
    decode_base64,
    decode_hash,
    decode_number,
    encode_base64,
)

HISTORY_NAME: Final = "history"
_MAX_LINE: Final = 4096
_KEY_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class HistoryTail:
    """The end of the file, for whoever may have to repair it."""

    last: bytes | None
    """The signed note of the last line that holds, or None if there is none."""
    length: int
    """Bytes up to and including that line."""
    rest: int
    """Bytes after it: what a torn write left, or damage."""


class History:
    """The file of one ledger. Lines are believed only after their signature held."""

    def __init__(self, directory: Path, key: VerifierKey) -> None:
        self.path = directory / HISTORY_NAME
        self.key = key

    def append(self, note: bytes) -> None:
        """Add a signed checkpoint, durably. On failure the file is cut back to what it was.

        Raises:
            OutputError: it cannot be written; the checkpoint does not count.
        """
        line = self._line(note)
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise output_error(self.path, error) from error
        try:
            before = os.lseek(handle, 0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += os.write(handle, line[written:])
                os.fsync(handle)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                    os.fsync(handle)
                raise output_error(self.path, error) from error
        finally:
            os.close(handle)

    def cut(self, length: int) -> None:
        """Drop what follows the first ``length`` bytes. Raises OutputError."""
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(handle, length)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise output_error(self.path, error) from error

    def salvage(self) -> int:
        """Keep only the lines whose signature holds; how many bytes were dropped.

        Raises:
            NotFoundError, InputError: there is no such file.
            OutputError: it cannot be written.
        """
        kept = []
        total = 0
        with self._reader() as reader:
            while line := reader.readline(_MAX_LINE):
                total += len(line)
                with suppress(UcauditError):
                    if line.endswith(b"\n"):
                        self.key.open(self._note(line[:-1], ""), subject="")
                        kept.append(line)
        whole = b"".join(kept)
        if len(whole) != total:
            write_bytes(self.path, whole)
        return total - len(whole)

    def tail(self) -> HistoryTail:
        """Look at the end only. Raises NotFoundError, InputError if there is no such file."""
        with open_regular(self.path) as handle:
            whole = handle.seek(0, os.SEEK_END)
            start = max(0, whole - 2 * _MAX_LINE)
            handle.seek(start)
            data = handle.read(whole - start)
        end = len(data)
        while end:
            cut = data.rfind(b"\n", 0, end)
            if cut < 0:
                break
            first = data.rfind(b"\n", 0, cut) + 1
            if first == 0 and start > 0:
                break
            with suppress(UcauditError):
                note = self._note(data[first:cut], "")
                self.key.open(note, subject=str(self.path))
                return HistoryTail(note, start + cut + 1, whole - (start + cut + 1))
            end = cut
        return HistoryTail(None, 0, whole)

    def find(self, size: int) -> bytes | None:
        """The signed note of exactly ``size`` entries, or None. Its signature has not been checked."""
        needle = b"%d " % size
        with self._reader() as reader:
            for line in reader:
                if line.startswith(needle) and line.endswith(b"\n"):
                    return self._note(line[:-1], str(self.path))
        return None

    def checkpoints(self) -> Iterator[tuple[bytes, Checkpoint]]:
        """Every line as a signed note and what it says, in order.

        Raises:
            NotFoundError, InputError: there is no such file.
            MalformedRecordError: a line that is none, or a last line without an end (a torn write).
            LedgerInconsistentError: a signature that does not hold, or sizes that go backwards.
        """
        size = -1
        number = 0
        with self._reader() as reader:
            while data := reader.readline(_MAX_LINE):
                number += 1
                subject = f"{self.path} line {number}"
                if not data.endswith(b"\n"):
                    raise MalformedRecordError(
                        "a line without an end", subject=subject, hint="ucaudit ledger repair drops a torn line"
                    )
                note = self._note(data[:-1], subject)
                checkpoint = self.key.open(note, subject=subject)
                if checkpoint.size < size:
                    raise LedgerInconsistentError(
                        f"{checkpoint.size} entries after a checkpoint of {size}", subject=subject
                    )
                size = checkpoint.size
                yield note, checkpoint

    def _reader(self) -> io.BufferedReader:
        return io.BufferedReader(cast(io.RawIOBase, open_regular(self.path)))

    def _line(self, note: bytes) -> bytes:
        parsed = SignedNote.parse(note, subject=str(self.path))
        checkpoint = Checkpoint.parse(parsed.text, subject=str(self.path))
        [own] = [item for item in parsed.signatures if (item.name, item.key_id) == (self.key.name, self.key.key_id)]
        blob = encode_base64(own.key_id + own.signature)
        return f"{checkpoint.size} {encode_base64(checkpoint.root)} {blob}\n".encode("ascii")

    def _note(self, line: bytes, subject: str) -> bytes:
        """The signed note that a line stands for. Raises MalformedRecordError."""
        parts = line.decode("ascii", "replace").split(" ")
        if len(parts) != 3:
            raise MalformedRecordError("not a line of a size, a root and a signature", subject=subject)
        size = decode_number(parts[0], subject=subject)
        root = decode_hash(parts[1], subject=subject)
        blob = decode_base64(parts[2], subject=subject)
        own = NoteSignature(self.key.name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])
        return f"{Checkpoint(self.key.name, size, root).to_text()}\n{own.to_line()}".encode()
