"""Whether the evaluation text is text that the encoder was calibrated on.

Equal files are found by their SHA-256, which the pack states. Passages in common are found if the calibration text
is at hand: runs of 13 words of the windows to be scored that also occur in it. A word is a run of letters and
digits, compared without case; no run crosses from one window or document into another. Thirteen words is the length
that GPT-3's authors used for the same question (Brown et al. 2020, appendix C): shorter runs are shared by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ucaudit.core.errors import CorpusError
from ucaudit.core.records.attestation import OverlapSearch
from ucaudit.lab.texts import Corpus, load_corpus

if TYPE_CHECKING:
    from ucaudit.packs.codecs.base import TensorSource

NGRAM_WORDS: Final = 13
_WORD: Final = re.compile(r"[^\W_]+")

Status = Literal["not-checked", "none-found", "forced"]


@dataclass(frozen=True)
class Overlap:
    """What is known.

    Attributes:
        status: ``not-checked``: the files differ, passages were not searched for (no calibration text was given, or
            the pack states none). ``none-found``: they were, and there are none. ``forced``: the texts are the same
            or share passages, and that was allowed.
        search: what the search for passages found, if there was one.
    """

    status: Status
    search: OverlapSearch | None = None


def refuse_calibration_text(corpus: Corpus, pack: TensorSource, *, allow_overlap: bool) -> Overlap:
    """Refuse to evaluate on the very file the pack was calibrated on, as far as the pack says which that was.

    Raises:
        CorpusError: they are the same, and ``allow_overlap`` does not force it.
    """
    stated = pack.provenance().calibration
    if stated is None or stated.sha256 != corpus.sha256:
        return Overlap("not-checked")
    if not allow_overlap:
        raise CorpusError(
            "this is the text the pack was calibrated on: the result would flatter it",
            subject=corpus.name,
            hint="give another text, or --allow-overlap to measure anyway and have it recorded",
        )
    return Overlap("forced")


def load_calibration(path: Path, pack: TensorSource) -> Corpus:
    """The calibration text, checked against the digest that the pack states.

    Raises:
        CorpusError: the pack states none, or it is another file; also as :func:`ucaudit.lab.texts.load_corpus`.
    """
    stated = pack.provenance().calibration
    if stated is None:
        raise CorpusError(
            f"{pack.pack.name} states no calibration text to compare it with",
            subject=str(path),
            hint="leave --calibration out; the record will say that overlap was not checked",
        )
    corpus = load_corpus(path)
    if corpus.sha256 != stated.sha256:
        raise CorpusError(
            f"not the calibration text of {pack.pack.name}: expected sha-256 {stated.sha256} "
            f"({stated.name}), found {corpus.sha256}",
            subject=str(path),
        )
    return corpus


def search_passages(
    known: Overlap, windows: Iterable[str], calibration: Corpus, *, corpus_name: str, allow_overlap: bool
) -> Overlap:
    """Search the windows' texts for runs of :data:`NGRAM_WORDS` words of the calibration text.

    Args:
        known: what is known already; texts that are the same stay ``forced``.
        windows: the text of every window of the draw.
        calibration: from :func:`load_calibration`.
        corpus_name: of the evaluation text, for the message.
        allow_overlap: measure all the same, and have it recorded.

    Raises:
        CorpusError: there are some, and ``allow_overlap`` does not force it.
    """
    theirs = set(_grams(calibration.texts))
    ours = list(_grams(windows))
    shared = sum(gram in theirs for gram in ours)
    search = OverlapSearch(ngram_words=NGRAM_WORDS, ngrams=len(ours), shared=shared)
    if not shared:
        searched = known.status == "not-checked" and ours  # windows of a few words hold no run to look for
        return Overlap("none-found" if searched else known.status, search)
    if not allow_overlap:
        raise CorpusError(
            f"{shared} of {len(ours)} runs of {NGRAM_WORDS} words also occur in the pack's calibration text "
            f"{calibration.name}",
            subject=corpus_name,
            hint="give another text, or --allow-overlap to measure anyway and have the share recorded",
        )
    return Overlap("forced", search)


def _grams(texts: Iterable[str]) -> Iterator[bytes]:
    """A digest of every run of words; digests keep the memory small, 16 bytes make a chance match impossible."""
    for text in texts:
        words = _WORD.findall(text.casefold())
        for start in range(len(words) - NGRAM_WORDS + 1):
            run = " ".join(words[start : start + NGRAM_WORDS])
            yield blake2b(run.encode("utf-8", "surrogatepass"), digest_size=16).digest()
