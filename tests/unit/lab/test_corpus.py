import hashlib
import json
import struct

import pytest
import torch
from tinymodels import VOCAB, make_model, make_text, make_tokenizer

from ucaudit.core.errors import CorpusError, InputError, ModelError, NotFoundError
from ucaudit.core.windows import draw
from ucaudit.lab import corpus as corpora
from ucaudit.lab import texts
from ucaudit.models.runtime import load_tokenizer
from ucaudit.packs.codecs import open_source

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of b"abc"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return open_source(make_model(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory):
    return open_source(make_model(tmp_path_factory.mktemp("bos"), bos=True))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(), encoding="utf-8")
    return corpora.load_corpus(tmp_path / "text.txt")


def cut(source, text, **changes):
    settings = {"n": 5, "seq_len": 32, "seed": 42, "vocab_size": VOCAB, "max_positions": 128, **changes}
    return corpora.cut_windows(text, load_tokenizer(source), ABC, **settings)


# --- the text ---------------------------------------------------------------------------------------------
def test_a_text_is_named_and_hashed(tmp_path):
    (tmp_path / "t.txt").write_bytes("naïve\r\ntext".encode())
    text = corpora.load_corpus(tmp_path / "t.txt")
    assert (text.name, text.size, text.text) == ("t.txt", 12, "naïve\r\ntext")
    assert text.sha256 == hashlib.sha256("naïve\r\ntext".encode()).hexdigest()
    assert "naïve" not in repr(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the text is empty"),
        (b" \n\t\n", "the text is empty"),
        (b"\xef\xbb\xbftext", "byte-order mark"),
        (b"a text\0with more", "NUL byte at byte 6"),
        ("text".encode("utf-16-le"), "NUL byte at byte 1"),
        (b"caf\xe9 au lait", "not utf-8 at byte 3"),
        (b"overlong \xc0\xaf", "not utf-8 at byte 9"),
        (b"surrogate \xed\xa0\x80", "not utf-8 at byte 10"),
    ],
)
def test_what_is_not_a_text_is_refused(tmp_path, data, message):
    (tmp_path / "bad.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=message) as caught:
        corpora.load_corpus(tmp_path / "bad.txt")
    assert caught.value.exit_code == 3
    assert str(tmp_path / "bad.txt") in str(caught.value)


def test_an_oversized_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MAX_CORPUS_BYTES", 10)
    (tmp_path / "big.txt").write_text("eleven byte", encoding="utf-8")
    with pytest.raises(CorpusError, match="larger than the 10 bytes"):
        corpora.load_corpus(tmp_path / "big.txt")


def test_a_missing_text_and_a_directory(tmp_path):
    with pytest.raises(NotFoundError):
        corpora.load_corpus(tmp_path / "none.txt")
    with pytest.raises(InputError, match="not a regular file"):
        corpora.load_corpus(tmp_path)


# --- the draw ---------------------------------------------------------------------------------------------
# Independent vectors:
# python3 -c 'import hashlib; d="ba78…15ad"; print(sorted(sorted(range(20),
#   key=lambda i: hashlib.sha256(b"%d\n%s\n%d" % (42, d.encode(), i)).hexdigest())[:5]))'
@pytest.mark.parametrize(
    ("total", "n", "seed", "expected"),
    [
        (20, 5, 42, (3, 9, 10, 15, 18)),
        (20, 5, 43, (0, 4, 6, 11, 14)),
        (20, 5, -1, (0, 7, 12, 13, 15)),
        (1000, 8, 42, (426, 455, 585, 653, 687, 733, 765, 786)),
        (3, 3, 0, (0, 1, 2)),
        (1, 1, 7, (0,)),
    ],
)
def test_draw_vectors(total, n, seed, expected):
    assert draw(total, n, seed, ABC) == expected


def test_too_short_a_text_says_how_many_windows_there_are(plain, text):
    with pytest.raises(
        CorpusError, match=r"100000 windows of 32 tokens are asked for, \d+ tokens make \d+"
    ) as caught:
        cut(plain, text, n=100_000)
    assert caught.value.subject == "text.txt"


def test_malformed_draws_are_refused():
    with pytest.raises(InputError, match="n must be at least 1"):
        draw(5, 0, 42, ABC)
    with pytest.raises(InputError, match="not a sha-256"):
        draw(5, 2, 42, ABC.upper())
    with pytest.raises(CorpusError, match="6 windows are asked for, 5 are there"):
        draw(5, 6, 42, ABC)


# --- windows ----------------------------------------------------------------------------------------------
def test_windows_are_consecutive_cuts_of_one_stream(plain, text):
    windows = cut(plain, text)
    stream = load_tokenizer(plain)(text.text, add_special_tokens=False)["input_ids"]
    assert windows.total_tokens == len(stream)
    assert windows.available == len(stream) // 32
    for position, index in enumerate(windows.indexes):
        assert windows.ids[position].tolist() == stream[32 * index : 32 * index + 32]
        assert windows.input_ids(position).tolist() == [stream[32 * index : 32 * index + 32]]
    assert (windows.bos_id, windows.scored) == (None, 31)


def test_bos_is_an_extra_position_where_the_tokenizer_puts_one(with_bos, text):
    windows = cut(with_bos, text)
    assert (windows.bos_id, windows.scored) == (0, 32)
    given = windows.input_ids(3)
    assert given.shape == (1, 33)
    assert given.dtype == torch.int64
    assert given[0, 0] == 0
    assert given[0, 1:].tolist() == windows.ids[3].tolist()


def test_a_bos_token_that_is_only_named_is_not_used(plain):
    tokenizer = load_tokenizer(plain)
    assert tokenizer.bos_token_id == 0
    assert corpora.bos_token(tokenizer) is None
    tokenizer.bos_token = None
    assert corpora.bos_token(tokenizer) is None


def test_tokens_digest_is_what_the_documentation_says(plain, with_bos, text):
    for source, rule in ((plain, b"bos none\n"), (with_bos, b"bos 0\n")):
        windows = cut(source, text)
        packed = b"".join(struct.pack("<32i", *row) for row in windows.ids.tolist())
        assert windows.digest == hashlib.sha256(rule + packed).hexdigest()


def test_windows_too_long_for_the_model(plain, with_bos, text):
    assert cut(plain, text, seq_len=128).seq_len == 128
    with pytest.raises(ModelError, match="windows of 129 tokens, the model reads at most 128") as caught:
        cut(plain, text, seq_len=129)
    assert caught.value.hint == "--seq-len 128"
    with pytest.raises(ModelError, match="windows of 129 tokens with the BOS token") as caught:
        cut(with_bos, text, seq_len=128)
    assert caught.value.hint == "--seq-len 127"
    assert cut(plain, text, seq_len=129, max_positions=None).seq_len == 129


def test_a_token_outside_the_vocabulary(plain, text):
    with pytest.raises(ModelError, match="the model's vocabulary has 100"):
        cut(plain, text, vocab_size=100)


def test_a_window_of_one_token_has_no_context(plain, text):
    with pytest.raises(InputError, match="seq_len must be at least 2, found 1"):
        cut(plain, text, seq_len=1)


# --- tokenizers -------------------------------------------------------------------------------------------
def test_the_tokenizer_digest_is_a_sha256sums_text(plain):
    lines = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
        lines.append(f"{hashlib.sha256((plain.pack.root / name).read_bytes()).hexdigest()}  {name}\n")
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert corpora.tokenizer_manifest(plain).digest == expected
    assert corpora.require_same_tokenizer(plain, plain) == expected


def test_a_differing_tokenizer_is_refused_by_name(plain, with_bos):
    with pytest.raises(ModelError, match=r"tokenizer.json differs from plain"):
        corpora.require_same_tokenizer(with_bos, plain)


def test_a_tokenizer_file_that_one_side_lacks_is_refused(plain, tmp_path):
    target = make_model(tmp_path / "other")
    (target / "added_tokens.json").write_text("{}", encoding="utf-8")
    with open_source(target) as other, pytest.raises(ModelError, match=r"added_tokens.json is not in plain"):
        corpora.require_same_tokenizer(other, plain)
    with open_source(target) as other, pytest.raises(ModelError, match=r"added_tokens.json is not in plain"):
        corpora.require_same_tokenizer(plain, other)


def test_no_tokenizer_at_all(tmp_path):
    target = make_model(tmp_path / "bare")
    (target / "tokenizer.json").unlink()
    (target / "tokenizer_config.json").unlink()
    with open_source(target) as source, pytest.raises(ModelError, match="carries no tokenizer files"):
        corpora.tokenizer_manifest(source)


def test_make_tokenizer_is_deterministic(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_tokenizer(tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


# --- documents --------------------------------------------------------------------------------------------
def test_a_window_belongs_to_the_document_that_most_of_it_comes_from() -> None:
    # Documents of 3, 4, 1, 1 and 6 tokens in windows of 5: 3+2, 2+1+1+1, 5.
    ends = [3, 7, 8, 9, 15]
    assert corpora.majority_documents(ends, [0, 1, 2], 5) == (0, 1, 4)
    assert corpora.majority_documents([2, 4, 6], [0], 6) == (0,)  # of equals the first
    assert corpora.majority_documents([5, 5, 10], [0, 1], 5) == (0, 2)  # an empty document has nothing
    assert corpora.majority_documents([40], [0, 3, 7], 5) == (0, 0, 0)


def test_documents_are_tokenised_one_by_one_and_recorded_by_row(plain, tmp_path, monkeypatch):
    lines = [make_text(60, seed=seed) for seed in range(12)]
    lines[3] = "  "
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    corpus = corpora.load_corpus(tmp_path / "t.jsonl")
    tokenizer = load_tokenizer(plain)
    kept = [line for line in lines if line.strip()]
    expected = []
    for number, line in enumerate(kept):
        piece = line + ("\n\n" if number + 1 < len(kept) else "")
        expected += [(row, number) for row in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    monkeypatch.setattr(corpora, "_BATCH", 5)
    windows = cut(plain, corpus, n=8, seq_len=16)
    rows = [0, 1, 2, *range(4, 12)]
    assert windows.total_tokens == len(expected)
    for position, index in enumerate(windows.indexes):
        part = expected[16 * index : 16 * index + 16]
        assert windows.ids[position].tolist() == [token for token, _ in part]
        counts = {number: sum(other == number for _, other in part) for _, number in part}
        assert windows.documents[position] == rows[max(counts, key=counts.get)]
    assert list(windows.documents) == sorted(windows.documents)
    assert windows.cutting.endswith("of 11 documents, each tokenised with two newlines before the next")


def test_a_plain_text_names_no_documents(plain, text):
    windows = cut(plain, text)
    assert windows.documents is None
    assert windows.cutting == "one token stream without special tokens"


# --- shares -----------------------------------------------------------------------------------------------
def test_a_share_is_a_slice_of_the_draw(plain, text):
    whole = cut(plain, text)
    part = cut(plain, text, share="1:3")
    assert (part.share, part.drawn, part.n) == ((1, 3), whole.indexes, 2)
    assert part.indexes == whole.indexes[1:3]
    assert torch.equal(part.ids, whole.ids[1:3])
    assert torch.equal(part.input_ids(0), whole.input_ids(1))
    assert part.row_bytes(1) == whole.row_bytes(2)
    assert part.digest == whole.digest
    assert cut(plain, text, share="3:").indexes == whole.indexes[3:]


@pytest.mark.parametrize("share", ["0:6", "2:2", "3:2", "x", "5:", "", "1:2:3"])
def test_shares_that_are_none(plain, text, share):
    with pytest.raises(InputError, match="windows"):
        cut(plain, text, share=share)
