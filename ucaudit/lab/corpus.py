"""The evaluation text, and which of its windows are scored.

One UTF-8 file is tokenised as one stream, without special tokens, and cut into consecutive windows of ``seq_len``
tokens; what is left at the end is dropped. The windows to score are drawn by hashing, so anyone can redo the draw
in any language (see :func:`draw`). Nothing else is done to the text: no normalisation, no stride, no overlap.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit.core.digest import FileEntry, FileManifest, sha256_hex, sha256_stream
from ucaudit.core.errors import CorpusError, InputError, MalformedRecordError, ModelError, missing_extra
from ucaudit.core.files import read_limited
from ucaudit.core.windows import draw
from ucaudit.models.runtime import TOKENIZER_FILES

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ucaudit.packs.codecs.base import TensorSource

MAX_CORPUS_BYTES: Final = 1 << 30
MIN_SEQ_LEN: Final = 2
_BOM: Final = b"\xef\xbb\xbf"
_PROBE: Final = "a"


@dataclass(frozen=True)
class Corpus:
    """One text file.

    Attributes:
        name: the file's name, without its directory.
        sha256: of the file's bytes.
        size: in bytes.
        text: its content; never saved or recorded.
    """

    name: str
    sha256: str
    size: int
    text: str = field(repr=False)


@dataclass(frozen=True)
class Windows:
    """The token ids that are scored.

    Attributes:
        corpus: the text they come from.
        tokenizer_digest: see :func:`tokenizer_manifest`.
        bos_id: the token put in front of every window as an extra position, or None.
        total_tokens: tokens in the whole text.
        available: whole windows in the text.
        seq_len: text tokens a window.
        seed: of the draw.
        indexes: the drawn windows, ascending.
        ids: int32 [n, seq_len], text tokens only.
    """

    corpus: Corpus
    tokenizer_digest: str
    bos_id: int | None
    total_tokens: int
    available: int
    seq_len: int
    seed: int
    indexes: tuple[int, ...]
    ids: torch.Tensor = field(repr=False)

    @property
    def n(self) -> int:
        """The number of windows drawn."""
        return len(self.indexes)

    @property
    def scored(self) -> int:
        """Tokens scored in each window: those that have a context."""
        return self.seq_len if self.bos_id is not None else self.seq_len - 1

    def input_ids(self, position: int) -> torch.Tensor:
        """What the models read: int64 [1, seq_len], one longer with a BOS token in front."""
        row = self.ids[position].to(torch.int64)
        if self.bos_id is not None:
            row = torch.cat([torch.tensor([self.bos_id]), row])
        return row.unsqueeze(0)

    def row_bytes(self, position: int) -> bytes:
        """One window's text tokens as little-endian int32."""
        return self.ids[position].numpy().astype("<i4").tobytes()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``bos ID`` (or ``bos none``), a newline, and the ids as little-endian int32, row by row."""
        hasher = hashlib.sha256(f"bos {'none' if self.bos_id is None else self.bos_id}\n".encode("ascii"))
        for position in range(self.n):
            hasher.update(self.row_bytes(position))
        return hasher.hexdigest()


def load_corpus(path: Path) -> Corpus:
    """Read an evaluation text.

    Raises:
        NotFoundError, InputError: no such file, or not a regular one.
        CorpusError: empty, over :data:`MAX_CORPUS_BYTES`, a byte-order mark, NUL bytes (binary data, UTF-16), or
            not UTF-8.
    """
    path = Path(path)
    subject = str(path)
    try:
        data = read_limited(path, MAX_CORPUS_BYTES)
    except MalformedRecordError as error:
        raise CorpusError(error.message, subject=subject) from error
    if not data.strip():
        raise CorpusError("the text is empty", subject=subject)
    if data.startswith(_BOM):
        raise CorpusError(
            "starts with a byte-order mark, which would be scored as text",
            subject=subject,
            hint="save it as UTF-8 without a byte-order mark",
        )
    if (place := data.find(b"\0")) >= 0:
        raise CorpusError(f"not a text: a NUL byte at byte {place}", subject=subject, hint="give a UTF-8 text file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"not utf-8 at byte {error.start}", subject=subject, hint="convert it to UTF-8, e.g. with iconv"
        ) from error
    return Corpus(name=path.name, sha256=sha256_hex(data), size=len(data), text=text)


def tokenizer_manifest(source: TensorSource) -> FileManifest:
    """Name and SHA-256 of every file the tokenizer is read from; the manifest's digest is the tokenizer's.

    Raises:
        ModelError: the source carries no tokenizer file.
    """
    entries = []
    for name in source.carried_files():
        if name in TOKENIZER_FILES:
            with source.open_carried(name) as handle:
                entries.append(FileEntry(name, *sha256_stream(handle)))
    if not entries:
        raise ModelError("carries no tokenizer files", subject=source.pack.name)
    return FileManifest.build(entries)


def require_same_tokenizer(pack: TensorSource, reference: TensorSource) -> str:
    """The tokenizer digest, if both carry the same tokenizer files.

    Raises:
        ModelError: a tokenizer file differs, or only one of the two has it; the file is named.
    """
    mine, theirs = tokenizer_manifest(pack), tokenizer_manifest(reference)
    ours, other = mine.by_path(), theirs.by_path()
    for name in sorted(ours.keys() | other.keys()):
        if ours.get(name) != other.get(name):
            found = "is not in" if name not in ours or name not in other else "differs from"
            where = reference if name in ours else pack
            raise ModelError(
                f"{name} {found} {where.pack.name}: the two must be scored on the same tokens",
                subject=(pack if name in ours else reference).pack.name,
                hint="carry the reference's tokenizer files in the pack, byte for byte",
            )
    return mine.digest


def bos_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS id, if the tokenizer by its own convention puts one in front of a text; else None."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    with_special = list(tokenizer(_PROBE, add_special_tokens=True)["input_ids"])
    plain = list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    return int(bos) if with_special[:1] == [bos] and plain[:1] != [bos] else None


def cut_windows(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    *,
    n: int,
    seq_len: int,
    seed: int,
    vocab_size: int,
    max_positions: int | None,
) -> Windows:
    """Tokenise, cut, draw.

    Args:
        corpus: the text.
        tokenizer: the models' own.
        tokenizer_digest: recorded.
        n: windows to draw.
        seq_len: text tokens a window, at least 2.
        seed: of the draw.
        vocab_size: of both models; every id must be below it.
        max_positions: the models' longest input, BOS included; None if there is no limit.

    Raises:
        CorpusError: too short for n windows; says how many there are.
        InputError: ``n`` or ``seq_len`` too small.
        ModelError: a token id outside the vocabulary, or windows longer than the models can read.
    """
    if seq_len < MIN_SEQ_LEN:
        raise InputError(f"seq_len must be at least {MIN_SEQ_LEN}, found {seq_len}")
    bos = bos_token(tokenizer)
    length = seq_len + (bos is not None)
    if max_positions is not None and length > max_positions:
        extra = " with the BOS token" if bos is not None else ""
        raise ModelError(
            f"windows of {length} tokens{extra}, the model reads at most {max_positions}",
            subject="config.json",
            hint=f"--seq-len {max_positions - (bos is not None)}",
        )
    ids = tokenise(corpus, tokenizer)
    available = len(ids) // seq_len
    try:
        indexes = draw(available, n, seed, corpus.sha256)
    except CorpusError as error:
        raise CorpusError(
            f"too short: {n} windows of {seq_len} tokens are asked for, {len(ids)} tokens make {available}",
            subject=corpus.name,
            hint=error.hint,
        ) from error
    largest = max(int(ids.max()), bos if bos is not None else 0)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer gives token id {largest}, the model's vocabulary has {vocab_size}",
            subject=corpus.name,
            hint="the tokenizer belongs to another model",
        )
    rows = ids[: available * seq_len].view(available, seq_len)[list(indexes)]
    return Windows(corpus, tokenizer_digest, bos, len(ids), available, seq_len, seed, indexes, rows)


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The whole text as one stream of token ids, int32, no special tokens added. Raises CorpusError if empty."""
    encoded = tokenizer(corpus.text, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    ids = torch.tensor(encoded["input_ids"], dtype=torch.int32)
    if not len(ids):
        raise CorpusError("the tokenizer finds no tokens in it", subject=corpus.name)
    return ids


def require_disjoint(corpus: Corpus, pack: TensorSource, *, allow_overlap: bool) -> bool:
    """Refuse to evaluate on the very text the pack was calibrated on, as far as the pack says which that was.

    Returns:
        Whether the texts are the same and ``allow_overlap`` forced it: to be recorded.

    Raises:
        CorpusError: they are the same.
    """
    calibration = pack.provenance().calibration
    if calibration is None or calibration.sha256 != corpus.sha256:
        return False
    if not allow_overlap:
        raise CorpusError(
            "this is the text the pack was calibrated on: the result would flatter it",
            subject=corpus.name,
            hint="give another text, or --allow-overlap to measure anyway and have it recorded",
        )
    return True
