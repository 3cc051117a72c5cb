"""The unfinished pack beside the one that it becomes: what takes it away, what does not, and what is not ours."""

import threading
from dataclasses import replace

import pytest
import torch
from test_compress import SETTINGS, damaged, encode, stop

from ucaudit.core.errors import InputError, ModelError, OutputError, RefusedError
from ucaudit.core.progress import SILENT
from ucaudit.lab.compress import compress
from ucaudit.lab.compress_run import require_place, unfinished
from ucaudit.packs.codecs import open_source

KEY, OTHER = "a" * 64, "b" * 64


class Notes:
    """Progress that keeps the lines and says when there is one."""

    def __init__(self):
        self.said = threading.Event()
        self.lines = []

    def start(self, total, unit, label):
        pass

    def advance(self, amount=1):
        pass

    def finish(self):
        pass

    def note(self, text):
        self.lines.append(text)
        self.said.set()


def interrupted(place, key=KEY):
    with pytest.raises(KeyboardInterrupt), unfinished(place, key) as run:
        run.note(0, None)
        raise KeyboardInterrupt


# --- what other options do to it ------------------------------------------------------------------------------
@pytest.mark.parametrize("mistake", ["length", "text", "norm", "weight", "budget"])
def test_a_mistyped_rerun_leaves_an_interrupted_run_alone(model, text, tmp_path, mistake):
    out = tmp_path / "made" / "pack"
    left = stop(model, out, text, 1)
    files = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
    settings, given, source = replace(SETTINGS, seed=7), text, model
    if mistake == "length":
        settings = replace(SETTINGS, seq_len=40_000)
    elif mistake == "text":
        given = tmp_path / "short.txt"
        given.write_text("the cat sat on a mat")
    elif mistake == "norm":
        source = damaged(model, tmp_path / "m", lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    elif mistake == "weight":
        name = "model.layers.0.mlp.up_proj.weight"
        source = damaged(model, tmp_path / "m", lambda tensors: tensors[name].fill_(torch.inf))
    else:
        settings = replace(SETTINGS, budget=4.7)  # refused when everything is weighed
    with pytest.raises(InputError):
        encode(source, out, given, settings)
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == files


def test_a_run_that_gets_behind_a_layer_takes_the_others_away(tmp_path):
    interrupted(tmp_path / "p")
    (work,) = tmp_path.iterdir()
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "p", OTHER) as run:
        assert sorted(path.name for path in work.iterdir()) == [KEY[:16], OTHER[:16]]
        run.prevail()
        assert [path.name for path in work.iterdir()] == [OTHER[:16]]
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [], "nothing was finished, and there is nothing to go on from"


# --- what is not ours -----------------------------------------------------------------------------------------
def test_a_link_in_its_place_is_refused_and_not_followed(model, text, tmp_path):
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "photos" / "one").write_text("keep")
    (tmp_path / ".pack.packing").symlink_to("mine")
    with pytest.raises(RefusedError, match=r"\.pack\.packing: no unfinished pack"):
        encode(model, tmp_path / "pack", text)
    assert (tmp_path / "mine" / "photos" / "one").read_text() == "keep"
    assert (tmp_path / ".pack.packing").is_symlink()


@pytest.mark.parametrize("strange", ["photos/one", "one", f"{KEY[:16]}/one", f"{KEY[:16]}"])
def test_what_is_not_ours_in_it_is_refused_and_kept(model, text, tmp_path, strange):
    file = tmp_path / ".pack.packing" / strange
    file.parent.mkdir(parents=True)
    file.write_text("keep")
    with pytest.raises(RefusedError, match="takes nothing else away") as refused:
        encode(model, tmp_path / "pack", text)
    assert file.read_text() == "keep" and str(refused.value.subject) in str(file)
    assert list(tmp_path.iterdir()) == [tmp_path / ".pack.packing"]


def test_what_comes_in_between_is_kept_too(tmp_path):
    with unfinished(tmp_path / "p", KEY) as run:
        mine = tmp_path / ".p.packing" / "mine"
        mine.write_text("keep")
        run.prevail()
    assert mine.read_text() == "keep" and (tmp_path / "p").is_dir()


# --- two at once ----------------------------------------------------------------------------------------------
def second(model, text, out):
    """A run that finds another one at work: its thread, what it says, and how it ends."""
    notes, ended = Notes(), []

    def work():
        try:
            with open_source(model) as source:
                ended.append(compress(source, out, SETTINGS, calibration=text, progress=notes))
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, notes, ended


def test_whoever_waited_finds_the_pack_there(model, text, tmp_path):
    with unfinished(tmp_path / "p", KEY) as run:
        thread, notes, ended = second(model, text, tmp_path / "p")
        assert notes.said.wait(60) and "waiting until it is done" in notes.lines[0]
        (run.pack / "file").write_text("of the first run")
    thread.join(60)
    (error,) = ended
    assert isinstance(error, RefusedError) and "exists already" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["file"]


def test_whoever_waited_for_a_run_that_failed_makes_the_pack(model, text, tmp_path):
    with pytest.raises(ModelError), unfinished(tmp_path / "p", KEY):
        thread, notes, ended = second(model, text, tmp_path / "p")
        assert notes.said.wait(60)
        raise ModelError("unusable")
    thread.join(120)
    assert ended[0].manifest.name == "p"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


# --- names ----------------------------------------------------------------------------------------------------
def test_a_place_gets_a_name_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RefusedError, match="working directory"):
        require_place(tmp_path / "x" / ".." / "here")
    monkeypatch.chdir(tmp_path)
    assert require_place(tmp_path / "x" / ".." / "here") == tmp_path.resolve() / "here"


@pytest.mark.parametrize(
    ("name", "error"), [("a\udcff", InputError), ("a" * 250, OutputError), ("a" * 300, OutputError)]
)
def test_a_name_that_no_pack_can_have(model, text, tmp_path, name, error):
    with pytest.raises(error), open_source(model) as source:
        compress(source, tmp_path / name, SETTINGS, calibration=text, progress=SILENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["model", "text"])
def test_the_other_names_of_the_manifest_are_looked_at_first(model, text, tmp_path, what):
    given = (tmp_path / "a\udcff") if what == "text" else text
    if what == "text":
        given.write_bytes(text.read_bytes())
    source = model if what == "text" else damaged(model, tmp_path / "a\udcff", lambda tensors: None)
    with pytest.raises(InputError, match="not valid unicode"):
        encode(source, tmp_path / "pack", given)
    assert [path.name for path in tmp_path.iterdir()] == ["a\udcff"]
