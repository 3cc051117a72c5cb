"""Which windows of the evaluation text are scored.

The text (:mod:`ucaudit.lab.texts`) is tokenised as one stream, without special tokens, and cut into consecutive
windows of ``seq_len`` tokens; what is left at the end is dropped. Documents follow each other in the stream, each
tokenised together with the two newlines that part it from the next, and a window belongs to the document that most
of its tokens come from. The windows to score are drawn by hashing, so anyone can redo the draw in any language (see
:func:`draw`). Nothing else is done to the text: no normalisation, no stride, no overlap.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from ucaudit.core.digest import FileEntry, FileManifest, sha256_stream
from ucaudit.core.errors import CorpusError, InputError, ModelError, missing_extra
from ucaudit.core.spans import resolve_span
from ucaudit.core.windows import draw
from ucaudit.lab.texts import Corpus, load_corpus
from ucaudit.models.runtime import TOKENIZER_FILES

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ucaudit.packs.codecs.base import TensorSource

__all__ = [
    "Corpus",
    "Windows",
    "bos_token",
    "cut_windows",
    "draw",
    "load_corpus",
    "majority_documents",
    "require_readable",
    "require_same_tokenizer",
    "tokenise",
    "tokenise_documents",
    "tokenizer_manifest",
]

MIN_SEQ_LEN: Final = 2
_PROBE: Final = "a"
_BATCH: Final = 1000  # documents given to the tokenizer at once


@dataclass(frozen=True)
class Windows:
    """The token ids that are scored: those of a whole draw, or of a share of it.

    Attributes:
        corpus: the text they come from.
        tokenizer_digest: see :func:`tokenizer_manifest`.
        bos_id: the token put in front of every window as an extra position, or None.
        total_tokens: tokens in the whole text.
        available: whole windows in the text.
        seq_len: text tokens a window.
        seed: of the draw.
        drawn: all drawn windows, ascending.
        drawn_ids: int32 [len(drawn), seq_len], text tokens only.
        drawn_documents: the row each comes from (:func:`majority_documents`); None for a plain text.
        share: which of them are scored here, from and up to; None for all.
    """

    corpus: Corpus
    tokenizer_digest: str
    bos_id: int | None
    total_tokens: int
    available: int
    seq_len: int
    seed: int
    drawn: tuple[int, ...]
    drawn_ids: torch.Tensor = field(repr=False)
    drawn_documents: tuple[int, ...] | None = field(default=None, repr=False)
    share: tuple[int, int] | None = None

    @property
    def _scored_here(self) -> slice:
        return slice(None) if self.share is None else slice(*self.share)

    @property
    def indexes(self) -> tuple[int, ...]:
        """The windows scored here, ascending."""
        return self.drawn[self._scored_here]

    @property
    def ids(self) -> torch.Tensor:
        """int32 [n, seq_len]: their text tokens."""
        return self.drawn_ids[self._scored_here]

    @property
    def documents(self) -> tuple[int, ...] | None:
        """The documents they come from, where the text says so."""
        return None if self.drawn_documents is None else self.drawn_documents[self._scored_here]

    @property
    def n(self) -> int:
        """The number of windows scored here."""
        return len(self.indexes)

    @property
    def scored(self) -> int:
        """Tokens scored in each window: those that have a context."""
        return self.seq_len if self.bos_id is not None else self.seq_len - 1

    def only(self, chosen: Sequence[int]) -> Windows:
        """Some of the drawn windows, as if no others had been drawn; :attr:`digest` is then theirs alone.

        Raises:
            InputError: one was not drawn.
        """
        places = {window: place for place, window in enumerate(self.drawn)}
        if strange := sorted(set(chosen) - places.keys()):
            raise InputError(f"window {strange[0]} was not drawn")
        rows = sorted(places[window] for window in chosen)
        documents = self.drawn_documents
        return replace(
            self,
            drawn=tuple(self.drawn[row] for row in rows),
            drawn_ids=self.drawn_ids[rows],
            drawn_documents=None if documents is None else tuple(documents[row] for row in rows),
            share=None,
        )

    @property
    def cutting(self) -> str:
        """How the text became a stream of tokens, in words."""
        stream = "one token stream without special tokens"
        if self.corpus.rows is None:
            return stream
        return f"{stream} of {len(self.corpus.texts)} documents, each tokenised with two newlines before the next"

    def input_ids(self, position: int) -> torch.Tensor:
        """What the models read: int64 [1, seq_len], one longer with a BOS token in front."""
        row = self.ids[position].to(torch.int64)
        if self.bos_id is not None:
            row = torch.cat([torch.tensor([self.bos_id]), row])
        return row.unsqueeze(0)

    def row_bytes(self, position: int) -> bytes:
        """One window's text tokens as little-endian int32."""
        return _little_endian(self.ids[position])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``bos ID`` (or ``bos none``), a newline, and the whole draw's ids, row by row, int32 LE."""
        hasher = hashlib.sha256(f"bos {'none' if self.bos_id is None else self.bos_id}\n".encode("ascii"))
        for row in self.drawn_ids:
            hasher.update(_little_endian(row))
        return hasher.hexdigest()


def _little_endian(row: torch.Tensor) -> bytes:
    return row.numpy().astype("<i4").tobytes()


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
    share: str | None = None,
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
        share: score only the A-th up to the B-th of the drawn windows, ``A:B``; all of them by default.

    Raises:
        CorpusError: too short for n windows; says how many there are.
        InputError: ``n`` or ``seq_len`` too small, or no such share.
        ModelError: a token id outside the vocabulary, or windows longer than the models can read.
    """
    if seq_len < MIN_SEQ_LEN:
        raise InputError(f"seq_len must be at least {MIN_SEQ_LEN}, found {seq_len}")
    bos = bos_token(tokenizer)
    require_readable("windows", seq_len, bos, max_positions)
    ids, ends = tokenise_documents(corpus, tokenizer)
    available = len(ids) // seq_len
    try:
        indexes = draw(available, n, seed, corpus.sha256)
    except CorpusError as error:
        text = f"too short: {n} windows of {seq_len} tokens are asked for, {len(ids)} tokens make {available}"
        raise CorpusError(text if available < n else error.message, subject=corpus.name, hint=error.hint) from error
    largest = max(int(ids.max()), bos if bos is not None else 0)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer gives token id {largest}, the model's vocabulary has {vocab_size}",
            subject=corpus.name,
            hint="the tokenizer belongs to another model",
        )
    rows = ids[: available * seq_len].view(available, seq_len)[list(indexes)]
    documents = None
    if corpus.rows is not None:
        chosen = majority_documents(ends, indexes, seq_len)
        documents = tuple(corpus.rows[document] for document in chosen)
    part = None if share is None else resolve_span(share, n, what="windows")
    return Windows(
        *(corpus, tokenizer_digest, bos, len(ids), available, seq_len, seed, indexes, rows, documents), share=part
    )


def require_readable(what: str, seq_len: int, bos: int | None, max_positions: int | None) -> None:
    """Refuse pieces of text that are longer than a model can read, the BOS token counted. Raises ModelError."""
    length = seq_len + (bos is not None)
    if max_positions is not None and length > max_positions:
        extra = " with the BOS token" if bos is not None else ""
        raise ModelError(
            f"{what} of {length} tokens{extra}, the model reads at most {max_positions}",
            subject="config.json",
            hint=f"--seq-len {max_positions - (bos is not None)}",
        )


def majority_documents(ends: Sequence[int], windows: Sequence[int], seq_len: int) -> tuple[int, ...]:
    """The document that most of each window's tokens come from; of equals, the first.

    Args:
        ends: where each document's tokens end in the stream, ascending.
        windows: window indexes.
        seq_len: tokens a window.
    """
    found = []
    for window in windows:
        begin, end = window * seq_len, (window + 1) * seq_len
        first, last = bisect_right(ends, begin), bisect_right(ends, end - 1)

        def held(document: int, begin: int = begin, end: int = end) -> int:
            start = ends[document - 1] if document else 0
            return min(ends[document], end) - max(start, begin)

        found.append(max(range(first, last + 1), key=held))
    return tuple(found)


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The whole text as one stream of token ids, int32, no special tokens added. Raises CorpusError if empty."""
    return tokenise_documents(corpus, tokenizer)[0]


def tokenise_documents(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, list[int]]:
    """The stream of token ids, int32, and where each document ends in it. Raises CorpusError if it is empty."""
    stream: list[torch.Tensor] = []
    pieces = corpus.pieces()
    for start in range(0, len(pieces), _BATCH):
        batch = pieces[start : start + _BATCH]
        encoded = tokenizer(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        stream += [torch.tensor(ids, dtype=torch.int32) for ids in encoded["input_ids"]]
    ends = list(accumulate(map(len, stream)))
    if not ends[-1]:
        raise CorpusError("the tokenizer finds no tokens in it", subject=corpus.name)
    return torch.cat(stream), ends
