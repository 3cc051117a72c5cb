"""Reading an evaluation or calibration text from a local file: plain text, JSON Lines or Parquet.

The file's name says which: ``.jsonl`` and ``.ndjson``, ``.parquet``, and plain text for everything else. A plain
text is one document. In the other two every row is a document, its text in one column; the rest of the row is not
read. Nothing is downloaded, normalised or repaired: what cannot be read as text is refused, with the place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ucaudit.core import strictjson
from ucaudit.core.errors import CorpusError, InputError, MalformedRecordError, missing_extra
from ucaudit.core.files import open_regular, read_limited
from ucaudit.core.spans import resolve_span

if TYPE_CHECKING:
    from types import ModuleType

MAX_CORPUS_BYTES: Final = 1 << 30
"""Of text, in UTF-8. A Parquet or JSON Lines file may be larger, if no more than this is taken from it."""

DEFAULT_COLUMN: Final = "text"
SEPARATOR: Final = "\n\n"
"""What parts one document from the next."""

_JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})
_PARQUET_SUFFIX: Final = ".parquet"
_MAX_LINE: Final = 64 << 20
_BOM: Final = b"\xef\xbb\xbf"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """A text, as one or more documents.

    Attributes:
        name: the file's name, without its directory.
        sha256: of the file's bytes, all of them.
        size: of the file, in bytes.
        texts: the documents that hold any text, in order; never saved or recorded.
        rows: the row each document comes from, counted from 0 over the whole file; None for a plain text.
        column: the column that was read; None for a plain text.
        span: the rows that were taken, from and up to; None for a plain text.
    """

    name: str
    sha256: str
    size: int
    texts: tuple[str, ...] = field(repr=False)
    rows: tuple[int, ...] | None = field(default=None, repr=False)
    column: str | None = None
    span: tuple[int, int] | None = None

    @cached_property
    def text(self) -> str:
        """All documents with :data:`SEPARATOR` between them."""
        return self.texts[0] if len(self.texts) == 1 else SEPARATOR.join(self.texts)

    def pieces(self) -> list[str]:
        """The documents as they are tokenised: each with the separator that follows it, the last without."""
        return [*(text + SEPARATOR for text in self.texts[:-1]), self.texts[-1]]


def load_corpus(path: Path, *, column: str | None = None, rows: str | None = None) -> Corpus:
    """Read a text.

    Args:
        path: a local file.
        column: which column of a JSON Lines or Parquet file holds the text; ``text`` by default.
        rows: which of its rows to take, ``A:B`` or ``-K:`` (:func:`ucaudit.core.spans.resolve_span`); else all.

    Raises:
        NotFoundError, InputError: no such file, not a regular one, or ``rows`` or ``column`` for a plain text.
        CorpusError: empty, over :data:`MAX_CORPUS_BYTES`, a byte-order mark, NUL characters (binary data, UTF-16),
            not UTF-8, or rows that are not what their format says; line or row is named.
        MissingExtraError: a Parquet file without pyarrow.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _JSON_SUFFIXES or suffix == _PARQUET_SUFFIX:
        read = _load_parquet if suffix == _PARQUET_SUFFIX else _load_json_lines
        with open_regular(path) as handle:
            return read(path, handle, column or DEFAULT_COLUMN, rows)
    for name, value in (("--text-column", column), ("--rows", rows)):
        if value is not None:
            raise InputError(
                f"a plain text has no rows and columns: {name} {value!r} means nothing here",
                subject=str(path),
                hint="rows and columns are those of .jsonl and .parquet files",
            )
    return _load_plain(path)


def _load_plain(path: Path) -> Corpus:
    subject = str(path)
    try:
        data = read_limited(path, MAX_CORPUS_BYTES)
    except MalformedRecordError as error:
        raise CorpusError(error.message, subject=subject) from error
    if not data.strip():
        raise CorpusError("the text is empty", subject=subject)
    _refuse_mark(data, subject)
    if (place := data.find(b"\0")) >= 0:
        hint = "give a UTF-8 text file"
        if data.startswith(b"PAR1"):
            hint = "a Parquet file is read as one if its name ends in .parquet"
        raise CorpusError(f"not a text: a NUL byte at byte {place}", subject=subject, hint=hint)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"not utf-8 at byte {error.start}", subject=subject, hint="convert it to UTF-8, e.g. with iconv"
        ) from error
    return Corpus(path.name, hashlib.sha256(data).hexdigest(), len(data), (text,))


def _refuse_mark(data: bytes, subject: str) -> None:
    if data.startswith(_BOM):
        raise CorpusError(
            "starts with a byte-order mark, which would be scored as text",
            subject=subject,
            hint="save it as UTF-8 without a byte-order mark",
        )


class _Rows:
    """Collects the documents of a file with rows; refuses what is no text."""

    def __init__(self, subject: str, word: str, column: str) -> None:
        self.texts: list[str] = []
        self.rows: list[int] = []
        self._subject, self._word, self._column = subject, word, column
        self._bytes = 0

    def add(self, row: int, value: object, *, place: int) -> None:
        """Take one row's value; ``place`` is how a reader finds it."""
        where = f"{self._word} {place}"
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            raise CorpusError(
                f"{where}: column {self._column!r} is {kind}, a text is expected", subject=self._subject
            )
        if "\0" in value:
            raise CorpusError(f"{where}: not a text: a NUL character", subject=self._subject)
        if not value.strip():
            return  # a row without text adds nothing to the stream, but keeps its number
        self._bytes += len(value.encode("utf-8")) + len(SEPARATOR)
        if self._bytes > MAX_CORPUS_BYTES:
            raise CorpusError(
                f"{where}: more than {MAX_CORPUS_BYTES} bytes of text",
                subject=self._subject,
                hint="take fewer rows with --rows A:B",
            )
        self.texts.append(value)
        self.rows.append(row)

    def corpus(self, path: Path, sha256: str, size: int, span: tuple[int, int]) -> Corpus:
        """What was collected. Raises CorpusError if that is nothing."""
        if not self.texts:
            raise CorpusError(
                f"the text is empty: no text in column {self._column!r} of rows {span[0]}:{span[1]}",
                subject=self._subject,
            )
        return Corpus(path.name, sha256, size, tuple(self.texts), tuple(self.rows), self._column, span)


def _span(rows: str | None, total: int, subject: str) -> tuple[int, int]:
    if total == 0:
        raise CorpusError("the text is empty: it has no rows", subject=subject)
    try:
        return resolve_span(rows or ":", total, what="rows")
    except InputError as error:
        raise CorpusError(error.message, subject=subject) from error


# --- JSON Lines -------------------------------------------------------------------------------------------
def _load_json_lines(path: Path, handle: BinaryIO, column: str, rows: str | None) -> Corpus:
    subject = str(path)
    hasher = hashlib.sha256()
    size = total = 0
    for line in _lines(handle, subject):  # the first pass counts and hashes; parsing waits until the span is known
        hasher.update(line)
        size += len(line)
        total += 1
    span = _span(rows, total, subject)
    taken = _Rows(subject, "line", column)
    again = hashlib.sha256()
    handle.seek(0)
    for row, line in enumerate(_lines(handle, subject)):
        again.update(line)
        if span[0] <= row < span[1]:
            taken.add(row, _column_of(line, row + 1, column, subject), place=row + 1)
    if again.digest() != hasher.digest():
        raise CorpusError("changed while it was read", subject=subject)
    return taken.corpus(path, hasher.hexdigest(), size, span)


def _lines(handle: BinaryIO, subject: str) -> Iterator[bytes]:
    """Lines with their ends, in bounded memory."""
    rest = b""
    number = 1
    while chunk := handle.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else [rest + chunk]
        for line in whole:
            yield line + b"\n"
            number += 1
        if len(rest) > _MAX_LINE:
            raise CorpusError(f"line {number} is longer than {_MAX_LINE} bytes", subject=subject)
    if rest:
        yield rest


def _column_of(line: bytes, number: int, column: str, subject: str) -> object:
    if number == 1:
        _refuse_mark(line, subject)
    if not line.strip():
        raise CorpusError(f"line {number} is blank, a JSON object is expected", subject=subject)
    try:
        document: Any = strictjson.loads(line, subject=subject)
    except MalformedRecordError as error:
        raise CorpusError(f"line {number}: {error.message}", subject=subject) from error
    if not isinstance(document, dict):
        raise CorpusError(f"line {number}: a JSON object is expected", subject=subject)
    if column not in document:
        raise _no_column(column, list(document), f"line {number}: ", subject)
    return document[column]


def _no_column(column: str, there: list[str], where: str, subject: str) -> CorpusError:
    listed = ", ".join(name[:40] for name in there[:10]) or "none"
    return CorpusError(
        f"{where}no column {column[:80]!r}; there are: {listed}", subject=subject, hint="name it with --text-column"
    )


# --- Parquet ----------------------------------------------------------------------------------------------
def _load_parquet(path: Path, handle: BinaryIO, column: str, rows: str | None) -> Corpus:
    subject = str(path)
    arrow, parquet = _pyarrow()
    sha256, size = _hash(handle)
    if size == 0:
        raise CorpusError("the text is empty", subject=subject)
    handle.seek(0)
    try:
        file = parquet.ParquetFile(handle)
        _require_text_column(file.schema_arrow, column, arrow, subject)
        span = _span(rows, file.metadata.num_rows, subject)
        taken = _Rows(subject, "row", column)
        for row, value in _parquet_values(file, column, span, subject):
            taken.add(row, value, place=row)
    except (arrow.ArrowException, OSError, EOFError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        words = (str(error).splitlines() or ["no reason given"])[0]
        raise CorpusError(f"cannot be read as parquet: {words[:200]}", subject=subject) from error
    if _hash(handle) != (sha256, size):
        raise CorpusError("changed while it was read", subject=subject)
    return taken.corpus(path, sha256, size, span)


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("parquet", "pyarrow") from error
    return pyarrow, pyarrow.parquet


def _hash(handle: BinaryIO) -> tuple[str, int]:
    handle.seek(0)
    hasher, size = hashlib.sha256(), 0
    while chunk := handle.read(_CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.hexdigest(), size


def _require_text_column(schema: Any, column: str, arrow: Any, subject: str) -> None:  # noqa: ANN401
    if column not in schema.names:
        raise _no_column(column, schema.names, "", subject)
    kind = schema.field(column).type
    if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise CorpusError(f"column {column!r} is {str(kind)[:60]}, a text is expected", subject=subject)


def _parquet_values(
    file: Any,  # noqa: ANN401 - pyarrow has no annotations
    column: str,
    span: tuple[int, int],
    subject: str,
) -> Iterator[tuple[int, object]]:
    """Row number and value of every row of the span; only the row groups that hold any are read."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        described = file.metadata.row_group(group)
        end = first + described.num_rows
        if first < span[1] and span[0] < end:
            if described.total_byte_size > 4 * MAX_CORPUS_BYTES:
                raise CorpusError(
                    f"row group {group} unpacks to {described.total_byte_size} bytes, at most "
                    f"{4 * MAX_CORPUS_BYTES} are allowed",
                    subject=subject,
                )
            values = file.read_row_group(group, columns=[column]).column(column)
            begin = max(span[0] - first, 0)
            part = values.slice(begin, min(span[1], end) - first - begin)
            for offset, value in enumerate(part):
                row = first + begin + offset
                try:
                    yield row, value.as_py()
                except UnicodeDecodeError as error:
                    raise CorpusError(f"row {row}: not utf-8 at byte {error.start}", subject=subject) from error
        first = end
