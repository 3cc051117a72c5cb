"""Shares of one measurement, joined: equal to the whole to the byte, and every way in which they do not fit."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from tinymodels import make_model, make_text

from tests.cli.conftest import ucaudit
from ucaudit.core import tokenvalues
from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, RefusedError
from ucaudit.lab.measure import measure, write_measurement
from ucaudit.lab.merge import SUMMARY_FILE, merge
from ucaudit.lab.texts import load_corpus
from ucaudit.packs.codecs import open_source

FILES = (*tokenvalues.FILES, SUMMARY_FILE)


class Bench:
    """A reference, a pack, a text with documents; measures into directories."""

    def __init__(self, root: Path):
        self.root = root
        self.reference = make_model(root / "reference")
        self.pack = make_model(root / "pack", noise=0.05)
        self.text = root / "text.jsonl"
        rows = [json.dumps({"text": make_text(50, seed=seed)}) for seed in range(30)]
        self.text.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def measure(self, name: str, share: str | None = None, **changes) -> Path:
        out = self.root / name
        out.mkdir()
        settings = {"n": 7, "seq_len": 24, "seed": 42, "threads": 1, **changes}
        pack, text = settings.pop("pack", self.pack), settings.pop("corpus", None) or load_corpus(self.text)
        with open_source(pack) as source, open_source(self.reference) as original:
            found = measure(source, original, text, share=share, state_dir=out / ".measure-state", **settings)
        write_measurement(found, out)
        return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def whole(bench) -> Path:
    return bench.measure("whole")


@pytest.fixture(scope="module")
def shares(bench) -> list[Path]:
    return [bench.measure(f"share{index}", share) for index, share in enumerate((":1", "1:5", "5:"))]


@pytest.fixture
def copies(shares, tmp_path) -> list[Path]:
    import shutil

    return [shutil.copytree(share, tmp_path / f"copy{index}") for index, share in enumerate(shares)]


def edit(path: Path, change) -> None:
    document = json.loads((path / SUMMARY_FILE).read_text())
    change(document)
    (path / SUMMARY_FILE).write_text(json.dumps(document))


def test_merged_equals_whole_in_any_order(whole, shares, tmp_path) -> None:
    for number, order in enumerate(permutations(shares)):
        out = tmp_path / f"o{number}"
        results, document = merge(order, out)
        assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
        for name in FILES:
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
        assert (results.windows, results.documents is not None) == (7, True)
        assert "share" not in document


def test_a_share_says_that_it_is_one(shares) -> None:
    document = json.loads((shares[1] / SUMMARY_FILE).read_text())
    assert (document["share"], len(document["windows"]), document["measurement"]["n"]) == ([1, 5], 4, 7)
    assert "results" not in document
    done = ucaudit("bound", shares[1])
    assert done.code == 0
    assert done.out.startswith(
        "A share: windows 1 to 5 of the 7 drawn. Join all shares with: ucaudit merge\n\nwindows, tokens    4, 92, "
    )
    assert ucaudit("bound", shares[1], "--json").json["share"] == {"first": 1, "end": 5, "n": 7}


def test_two_shares_that_meet(bench, whole, tmp_path) -> None:
    left, right = bench.measure("left", "0:3"), bench.measure("right", "3:7")
    merge([right, left], tmp_path / "o")
    assert all((tmp_path / "o" / name).read_bytes() == (whole / name).read_bytes() for name in FILES)


# --- what does not fit -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chosen", "message", "hint"),
    [
        ((0, 2), "windows 1:5 of the 7 drawn are missing", "--windows 1:5"),
        ((1, 2), "windows 0:1 of the 7 drawn are missing", "--windows 0:1"),
        ((0, 1), "windows 5:7 of the 7 drawn are missing", "--windows 5:7"),
        ((1,), "windows 0:1, 5:7 of the 7 drawn are missing", "--windows 0:1"),
    ],
)
def test_missing_windows(shares, tmp_path, chosen, message, hint) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        merge([shares[index] for index in chosen], tmp_path / "o")
    assert hint in caught.value.hint
    assert not (tmp_path / "o").exists()


def test_overlapping_windows(bench, shares, tmp_path) -> None:
    with pytest.raises(RefusedError, match=r"holds windows 1:5, .*share1 1:5: they overlap"):
        merge([*shares, shares[1]], tmp_path / "o")
    more = bench.measure("more", "4:7")
    with pytest.raises(RefusedError, match=r"holds windows 4:7, .*share1 1:5: they overlap"):
        merge([shares[0], shares[1], more], tmp_path / "o")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 2}, "measurement.compute.threads is 2, .* has 1"),
        ({"dtype": "bf16"}, 'measurement.compute.dtype is "bf16", .* has "fp32"'),
        ({"seed": 43}, "measurement.seed is 43, .* has 42"),
        ({"seq_len": 20}, "measurement.seqLen is 20, .* has 24; .*; and 2 more"),
        ({"n": 8}, "measurement.n is 8, .* has 7"),
    ],
)
def test_other_settings_are_named(bench, shares, tmp_path, changes, message) -> None:
    name = "other-" + "-".join(map(str, changes.values()))
    other = bench.measure(name, "5:", **changes)
    with pytest.raises(RefusedError, match=message) as caught:
        merge([*shares[:2], other], tmp_path / "o")
    assert caught.value.subject == str(other)
    assert caught.value.exit_code == 3


def test_other_inputs_are_named(bench, shares, tmp_path) -> None:
    other = bench.measure("other-pack", "5:", pack=make_model(tmp_path / "p", noise=0.1))
    with pytest.raises(RefusedError, match="packDigest is"):
        merge([*shares[:2], other], tmp_path / "o")
    text = bench.root / "other.jsonl"
    text.write_text(bench.text.read_text() + '{"text": "more"}\n')
    other = bench.measure("other-text", "5:", corpus=load_corpus(text, rows=":30"))
    with pytest.raises(RefusedError, match=r"measurement\.corpus\.sha256 is"):
        merge([*shares[:2], other], tmp_path / "o")


@pytest.mark.parametrize("name", tokenvalues.FILES)
def test_edited_values(copies, tmp_path, name) -> None:
    data = bytearray((copies[1] / name).read_bytes())
    data[-1] ^= 1
    (copies[1] / name).write_bytes(data)
    with pytest.raises(RefusedError, match="edited since it was measured") as caught:
        merge(copies, tmp_path / "o")
    assert caught.value.subject == str(copies[1] / name)


def test_swapped_values(copies, tmp_path) -> None:
    for name in tokenvalues.FILES:
        (copies[1] / name).write_bytes((copies[2] / name).read_bytes())
    with pytest.raises(RefusedError, match="edited"):
        merge(copies, tmp_path / "o")
    later = json.loads((copies[2] / SUMMARY_FILE).read_text())["measurement"]["valueFiles"]
    edit(copies[1], lambda document: document["measurement"].update(valueFiles=later))
    with pytest.raises(MalformedRecordError, match="the summary does not describe its files"):
        merge(copies, tmp_path / "o")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(share=[1, 6]), r"the share 1:6 has 4 windows of 23 values"),
        (lambda d: d.update(share=[5, 1]), "not the summary of a share"),
        (lambda d: d.update(share=[True, 5]), "not the summary of a share"),
        (lambda d: d.update(share=[1, 5, 7]), "not the summary of a share"),
        (lambda d: d.update(share=None), "not the summary of a share"),
        (lambda d: d.update(share=[1, 8]), "not the summary of a share"),
        (lambda d: d.update(extra=1), "not the summary of a share"),
        (lambda d: d.pop("windows"), "not the summary of a share"),
        (lambda d: d.update(format="ucaudit-measurement/2"), "not a measurement of format ucaudit-measurement/1"),
        (lambda d: d["measurement"].update(n=0), "not the summary of a share"),
        (lambda d: d["measurement"].update(scoredTokens=5), "the share 1:5 has 4 windows"),
        (lambda d: d["measurement"].update(valueFiles=[]), "the summary does not describe its files"),
        (
            lambda d: d["measurement"]["valueFiles"].append({"name": "../x", "sha256": "0" * 64}),
            "edited since it was measured",
        ),
    ],
)
def test_summaries_that_are_none(copies, tmp_path, change, message) -> None:
    edit(copies[1], change)
    with pytest.raises(InputError, match=message):
        merge(copies, tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("[", "not json"), ("[]", "not a measurement of"), ("1", "not a me")]
)
def test_summaries_that_are_not_even_objects(copies, tmp_path, text, message) -> None:
    (copies[0] / SUMMARY_FILE).write_text(text)
    with pytest.raises(MalformedRecordError, match=message):
        merge(copies, tmp_path / "o")


def test_what_is_no_share_at_all(whole, shares, tmp_path) -> None:
    with pytest.raises(RefusedError, match="a whole measurement, not a share"):
        merge([whole], tmp_path / "o")
    with pytest.raises(NotFoundError):
        merge([*shares, tmp_path], tmp_path / "o")
    with pytest.raises(InputError, match="no shares"):
        merge([], tmp_path / "o")
    with pytest.raises(RefusedError, match="holds a finished measurement"):
        merge(shares, whole)


# --- as commands -------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_commands(bench, whole, tmp_path) -> None:
    common = ("--reference", bench.reference, "--corpus", bench.text, "--n", 7, "--seq-len", 24, "--threads", 1)
    parts = []
    for share in ("0:4", "4:7"):
        parts.append(tmp_path / share.replace(":", "-"))
        done = ucaudit("measure", bench.pack, *common, "--windows", share, "--out", parts[-1])
        assert done.code == 0, done.err
        size = {"0:4": 4, "4:7": 3}[share]
        assert (
            done.out == f"{size} of 7 windows in {parts[-1]}; join all shares with: ucaudit merge DIR… --out DIR\n"
        )
    done = ucaudit("merge", *parts, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert done.out.startswith("perplexity ratio")
    assert all((tmp_path / "o" / name).read_bytes() == (whole / name).read_bytes() for name in FILES)
    done = ucaudit("merge", parts[0], "--out", tmp_path / "p", "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "refused")
    assert "windows 4:7 of the 7 drawn are missing" in done.json["error"]["message"]
    done = ucaudit("measure", bench.pack, *common, "--windows", "5:9", "--out", tmp_path / "q")
    assert (done.code, done.err.splitlines()[-2]) == (
        3,
        "ucaudit: error: windows 5:9 are asked for, there are 7",
    )
    assert ucaudit("merge", "--out", tmp_path / "r").code == 2


def test_merging_needs_no_torch(shares, tmp_path) -> None:
    import subprocess
    import sys

    script = (
        "import sys\nfor name in ('torch', 'numpy', 'transformers'): sys.modules[name] = None\n"
        "from ucaudit.cli.main import main\nmain(sys.argv[1:])"
    )
    words = ["merge", *map(str, shares), "--out", str(tmp_path / "o")]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
