"""The calibration and evaluation texts are clean prose, and disjoint; so are the fixture models' three texts."""

import hashlib
import lzma
import re
from itertools import combinations
from pathlib import Path

import pytest

TEXTS = Path(__file__).resolve().parents[2] / "fixtures" / "text"
SIZES = {"calibration.txt": (120_000, 200_000), "evaluation.txt": (180_000, 220_000)}
DIGESTS = {
    "calibration.txt": "5cee029ee1530f081015e50999581b2ca4181f1fe5a5e7b3520714676da48565",
    "evaluation.txt": "c9784bc1776ffdb5b5db70d6332309770cbf5ed41dd41d28637b8d938146b2cd",
}


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    sequence = re.findall(r"[^\W_]+", text.lower())
    return {tuple(sequence[start : start + size]) for start in range(len(sequence) - size + 1)}


def test_no_thirteen_words_in_common():
    first, second = ((TEXTS / name).read_text(encoding="utf-8") for name in SIZES)
    assert len(grams(first, 13)) > 20_000 and len(grams(second, 13)) > 20_000
    assert not grams(first, 13) & grams(second, 13)
    # The check can fail: short runs of words are of course shared.
    assert grams(first, 3) & grams(second, 3)


def bench_texts() -> dict[str, str]:
    texts = {path.name: path.read_text(encoding="utf-8") for path in TEXTS.glob("bench-*.txt")}
    packed = TEXTS / "bench-training.txt.xz"
    return {**texts, packed.name: lzma.decompress(packed.read_bytes()).decode("utf-8")}


def test_the_fixture_models_texts_have_no_thirteen_words_in_common():
    texts = bench_texts()
    assert {name: len(text.encode()) > 100_000 for name, text in texts.items()} == dict.fromkeys(
        ("bench-calibration.txt", "bench-evaluation.txt", "bench-training.txt.xz"), True
    )
    found = {name: grams(text, 13) for name, text in texts.items()}
    # The models have not seen the other two texts either, so those can be used with them as well.
    found |= {name: grams((TEXTS / name).read_text(encoding="utf-8"), 13) for name in SIZES}
    for first, second in combinations(found, 2):
        # bench-evaluation.txt ends with entries of evaluation.txt, likewise calibration: the README says so.
        if first.removeprefix("bench-") != second.removeprefix("bench-"):
            assert not found[first] & found[second], (first, second)
    assert len(found["bench-training.txt.xz"]) > 700_000


@pytest.mark.parametrize("name", SIZES)
def test_clean_prose(name):
    data = (TEXTS / name).read_bytes()
    low, high = SIZES[name]
    assert low <= len(data) <= high
    text = data.decode("utf-8")
    assert text.endswith("\n") and not text.endswith("\n\n")
    for paragraph in text[:-1].split("\n\n"):
        assert paragraph == paragraph.strip() and "\n" not in paragraph
        assert "  " not in paragraph
        assert all(character.isprintable() for character in paragraph)
        assert not re.search("[\u2500-\u259f]", paragraph)
        assert sum(character.isalpha() for character in paragraph) > len(paragraph) / 2


@pytest.mark.parametrize("name", SIZES)
def test_unchanged(name):
    """Recorded measurements name these digests."""
    assert hashlib.sha256((TEXTS / name).read_bytes()).hexdigest() == DIGESTS[name]
