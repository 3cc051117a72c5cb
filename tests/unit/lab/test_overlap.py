"""Evaluation text that the encoder saw: the same file, passages, and what nobody looked for."""

from __future__ import annotations

import hashlib

import pytest

from ucaudit.core.errors import CorpusError
from ucaudit.core.records import Calibration
from ucaudit.lab.overlap import Overlap, load_calibration, refuse_calibration_text, search_passages
from ucaudit.lab.texts import load_corpus
from ucaudit.packs.codecs import Provenance

WORDS = [f"w{index}" for index in range(40)]


class Calibrated:
    """A pack that names its calibration text, or none."""

    class pack:
        name = "the-pack"

    def __init__(self, digest: str | None):
        self.digest = digest

    def provenance(self) -> Provenance:
        if self.digest is None:
            return Provenance()
        return Provenance(
            calibration=Calibration(name="cal.txt", sha256=self.digest, tokens=1, sequences=1, seq_len=1, seed=1)
        )


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(WORDS), encoding="utf-8")
    return load_corpus(tmp_path / "text.txt")


def test_the_calibration_text_is_refused_unless_forced(text) -> None:
    pack, other, silent = Calibrated(text.sha256), Calibrated("0" * 64), Calibrated(None)
    with pytest.raises(CorpusError, match="the text the pack was calibrated on") as caught:
        refuse_calibration_text(text, pack, allow_overlap=False)
    assert "--allow-overlap" in caught.value.hint
    assert refuse_calibration_text(text, pack, allow_overlap=True) == Overlap("forced")
    for pack in (other, silent):
        for allowed in (True, False):
            assert refuse_calibration_text(text, pack, allow_overlap=allowed) == Overlap("not-checked")


def test_the_calibration_text_must_be_the_one_that_the_pack_names(text, tmp_path) -> None:
    path = tmp_path / "text.txt"
    assert load_calibration(path, Calibrated(text.sha256)) == text
    with pytest.raises(CorpusError, match=f"expected sha-256 {'0' * 64} .cal.txt., found {text.sha256}"):
        load_calibration(path, Calibrated("0" * 64))
    with pytest.raises(CorpusError, match="the-pack states no calibration text to compare it with"):
        load_calibration(path, Calibrated(None))


def search(text, windows, *, known="not-checked", allow=False) -> Overlap:
    return search_passages(Overlap(known), windows, text, corpus_name="eval.txt", allow_overlap=allow)


def test_thirteen_words_in_common_are_found_and_twelve_are_not(text) -> None:
    twelve, thirteen = ("x " + " ".join(WORDS[5 : 5 + size]) + " y" for size in (12, 13))
    none = search(text, [twelve, "short"])
    assert (none.status, none.search.shared, none.search.ngrams, none.search.ngram_words) == (
        "none-found",
        0,
        2,  # 14 words make two runs of 13, one word none
        13,
    )
    with pytest.raises(CorpusError, match=r"^eval.txt: 1 of 3 runs of 13 words also occur .* text text.txt$"):
        search(text, [thirteen])
    forced = search(text, [twelve, thirteen], allow=True)
    assert (forced.status, forced.search.shared, forced.search.ngrams) == ("forced", 1, 5)


def test_windows_too_short_for_a_run_were_not_checked(text) -> None:
    found = search(text, [" ".join(WORDS[:12]), ""])
    assert (found.status, found.search.ngrams) == ("not-checked", 0)


def test_case_and_punctuation_do_not_hide_a_passage(text) -> None:
    with pytest.raises(CorpusError, match="1 of 1 runs"):
        search(text, [",\n— ".join(WORDS[:13]).upper()])


def test_a_run_does_not_cross_windows_or_documents(text, tmp_path) -> None:
    assert search(text, [" ".join(WORDS[:7]) + " x" * 6, " ".join(WORDS[7:14]) + " x" * 6]).status == "none-found"
    rows = [" ".join(WORDS[:7]), " ".join(WORDS[7:14])]
    (tmp_path / "c.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    assert search(load_corpus(tmp_path / "c.jsonl"), [" ".join(WORDS[:14])]).status == "none-found"


def test_the_same_file_stays_forced_whatever_the_search_says(text) -> None:
    assert search(text, ["nothing in common " * 13], known="forced", allow=True).status == "forced"


def test_the_fixture_texts_do_not_overlap() -> None:
    from pathlib import Path

    folder = Path(__file__).parents[3] / "fixtures" / "text"
    evaluation, calibration = (load_corpus(folder / name) for name in ("evaluation.txt", "calibration.txt"))
    found = search(calibration, [evaluation.text])
    assert found.search.ngrams > 20_000
    assert hashlib.sha256(calibration.text.encode()).hexdigest() == calibration.sha256
