"""The signed record that a report carries as an attachment, found without a PDF library.

Only the record is read, and only to check its signature: nothing here says that the pages around it show what it
says. An embedded file is a stream whose dictionary says ``/EmbeddedFile`` (ISO 32000-1, 7.11.4); a stream is either
plain or Flate-compressed. Sizes are capped before and after decompression.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Envelope

MAX_PDF_BYTES: Final = 64 << 20
MAX_ATTACHMENTS: Final = 16
_DICTIONARY_BYTES: Final = 2048
_STREAM: Final = re.compile(rb"stream\r?\n")


def attached_record(path: Path) -> Envelope:
    """The one DSSE envelope that is attached to a PDF.

    Raises:
        NotFoundError: no such file, or no record is attached to it.
        InputError: not a PDF, too large, or several records are attached: then nobody can say which is meant.
    """
    data = read_limited(path, MAX_PDF_BYTES)
    if b"%PDF-" not in data[:1024]:
        raise InputError("not a pdf", subject=str(path))
    found = []
    for content in _embedded(data):
        if PAYLOAD_TYPE.encode() not in content:
            continue
        try:
            found.append(Envelope.parse(content, subject=f"{path.name}: attached record"))
        except InputError:
            continue
    if not found:
        raise NotFoundError(
            "no signed record is attached to this report", subject=str(path), hint="give --bundle BUNDLE"
        )
    if len({envelope.raw for envelope in found}) > 1:
        raise InputError(f"{len(found)} different records are attached", subject=str(path))
    return found[0]


def _embedded(data: bytes) -> Iterator[bytes]:
    """The contents of the embedded files, as far as they can be read."""
    count = 0
    for match in _STREAM.finditer(data):
        head = data[max(0, match.start() - _DICTIONARY_BYTES) : match.start()]
        head = head[head.rfind(b" obj") + 1 :]
        if b"/EmbeddedFile" not in head:
            continue
        count += 1
        if count > MAX_ATTACHMENTS:
            return
        end = data.find(b"endstream", match.end())
        if end < 0:
            return
        body = data[match.end() : end]
        if b"/FlateDecode" not in head:
            yield body  # the line end before ``endstream`` is white space to a JSON reader
            continue
        try:
            yield zlib.decompressobj().decompress(body, MAX_ENVELOPE_BYTES)
        except zlib.error:
            continue
