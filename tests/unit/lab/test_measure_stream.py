"""Measuring layer by layer gives the bytes of measuring whole, however often it is interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from families import make_family
from test_measure import SEQ_LEN, Models, N, Stop, saved
from tinymodels import make_tokenizer

from ucaudit.cli.main import main
from ucaudit.core import tokenvalues
from ucaudit.core.errors import ModelError, OutputError
from ucaudit.lab.hidden_states import HiddenStates
from ucaudit.lab.measure import measure, measurement_record
from ucaudit.lab.measure_plan import plan_measurement
from ucaudit.packs.codecs import open_source


class Layers(Stop):
    """A progress reporter that interrupts after a number of layers and windows together."""

    def advance(self, amount=1):
        if self.unit in ("windows", "layers"):
            self.measured += amount
            if self.left is not None and self.measured >= self.left:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def budgets(models):
    with open_source(models.pack) as pack, open_source(models.reference) as reference:
        needs = plan_measurement(pack, reference, models.text, n=N, seq_len=SEQ_LEN, seed=42).memory
    assert needs.layers + needs.hidden_states < needs.whole
    return {"whole": needs.whole, "layers": needs.whole - 1, "spill": needs.layers}


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return saved(models.measure(root / "s"), root / "v")


@pytest.mark.parametrize("mode", ["layers", "spill"])
def test_the_bytes_are_those_of_the_whole_models(models, budgets, whole, tmp_path, mode):
    found = models.measure(tmp_path / "s", memory_bytes=budgets[mode])
    assert saved(found, tmp_path / "v") == whole
    assert measurement_record(found).compute["execution"] == "layers"
    assert measurement_record(models.measure(tmp_path / "t")).compute["execution"] == "whole"


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "gemma2", "mamba", "mamba2"])
def test_other_classes_of_models_too(tmp_path, family):
    paths = [make_family(family, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for path in paths:
        make_tokenizer(path)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat and looked at every bird " * 40, encoding="utf-8")
    settings = {"n": 3, "seq_len": 33, "seed": 1, "threads": 1}
    with open_source(paths[0]) as reference, open_source(paths[1]) as pack:
        needs = plan_measurement(pack, reference, text, n=3, seq_len=33, seed=1).memory
        found = [
            measure(pack, reference, text, state_dir=tmp_path / f"s{budget}", memory_bytes=budget, **settings)
            for budget in (needs.whole, needs.layers)
        ]
    assert [measurement_record(one).compute["execution"] for one in found] == ["whole", "layers"]
    assert saved(found[0], tmp_path / "a") == saved(found[1], tmp_path / "b")


@pytest.mark.parametrize("mode", ["layers", "spill"])
def test_interrupted_anywhere_it_repeats_nothing(models, budgets, whole, tmp_path, mode):
    """Two models of two layers, and six windows: ten places to stop at."""
    total = 2 * 2 + N
    for after in range(1, total + 1):
        state = tmp_path / f"s{after}"
        with pytest.raises(KeyboardInterrupt):
            models.measure(state, progress=Layers(after), memory_bytes=budgets[mode])
        second = Layers(None)
        again = models.measure(state, progress=second, memory_bytes=budgets[mode])
        # The stop comes after a layer was kept, so nothing is done twice.
        assert second.measured == total - after
        assert saved(again, tmp_path / f"v{after}") == whole


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_measure import Models, N, SEQ_LEN
from ucaudit.lab.measure import measure
from ucaudit.packs.codecs import open_source
root, state, memory = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
with open_source(root / "pack") as pack, open_source(root / "reference") as reference:
    print("started", flush=True)
    measure(pack, reference, root / "text.txt", n=N, seq_len=SEQ_LEN, seed=42, threads=1, state_dir=state,
            memory_bytes=memory)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_in_the_same_bytes(models, budgets, whole, tmp_path):
    chooser = random.Random(7)
    here = os.path.dirname(__file__)  # noqa: PTH120 - goes into an argument list
    state = tmp_path / "s"
    command = [sys.executable, "-c", KILLED, here, str(models.root), str(state), str(budgets["spill"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = 0
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        time.sleep(chooser.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        finished += process.wait() == 0
    assert saved(models.measure(state, memory_bytes=budgets["spill"]), tmp_path / "v") == whole


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty", "other-layer"])
def test_damaged_hidden_states_are_computed_again(models, budgets, whole, tmp_path, damage):
    state = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        models.measure(state, progress=Layers(1), memory_bytes=budgets["layers"])
    (file,) = state.glob("*/reference-*.hidden")
    assert file.name == "reference-00001.hidden"
    data = file.read_bytes()
    if damage == "other-layer":
        file.rename(file.with_name("reference-00002.hidden"))
    else:
        changed = {
            "flip": data[:9] + bytes([data[9] ^ 1]) + data[10:],
            "truncate": data[:-1],
            "extend": data + b"0",
        }
        file.write_bytes(changed.get(damage, b""))
    progress = Layers(None)
    again = models.measure(state, progress=progress, memory_bytes=budgets["layers"])
    assert progress.notes[0] == "hidden states of the reference were damaged and are computed again"
    assert progress.measured == 2 * 2 + N
    assert saved(again, tmp_path / "v") == whole


def test_a_full_disk_is_one_clear_error(models, budgets, tmp_path, monkeypatch):
    from ucaudit.lab import hidden_states

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hidden_states, "raw_bytes", full)
    with pytest.raises(OutputError, match="no space left on device"):
        models.measure(tmp_path / "s", memory_bytes=budgets["layers"])
    assert not list((tmp_path / "s").glob("**/.ucaudit-tmp-*"))
    monkeypatch.undo()
    models.measure(tmp_path / "s", memory_bytes=budgets["layers"])


def test_nothing_is_left_when_the_result_is_safe(models, budgets, tmp_path):
    from ucaudit.lab.measure_state import discard_state

    models.measure(tmp_path / "s", memory_bytes=budgets["spill"])
    assert list((tmp_path / "s").glob("*/*.hidden"))
    discard_state(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_nan_logits_are_named_when_streaming(models, budgets, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in models.pack.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="the pack gives logits that are not finite"):
        models.measure(tmp_path / "s", pack=broken, memory_bytes=budgets["layers"])


def test_hidden_states_keep_their_order(tmp_path):
    states = HiddenStates(tmp_path, "reference", "k", 3, (1, 2, 4), torch.float32, in_memory=False)
    assert states.resume() == (None, False)
    rows = [torch.full((1, 2, 4), float(index)) for index in range(3)]
    with states.passing(0) as append:
        for row in rows:
            append(row)
    assert [states.get(index)[0, 0, 0].item() for index in range(3)] == [0.0, 1.0, 2.0]
    with pytest.raises(KeyboardInterrupt), states.passing(1) as append:
        append(rows[2])
        raise KeyboardInterrupt
    assert states.get(0)[0, 0, 0].item() == 0.0
    other = HiddenStates(tmp_path, "reference", "k", 3, (1, 2, 4), torch.float32)
    assert other.resume() == (0, False)
    assert torch.equal(other.get(2), rows[2])
    assert HiddenStates(tmp_path, "reference", "another run", 3, (1, 2, 4), torch.float32).resume() == (None, True)
    states.close()
    other.close()


def test_the_command_says_how_it_runs(models, budgets, tmp_path, capsys):
    def run(memory, out):
        options = ["--reference", models.reference, "--corpus", models.text, "--n", N, "--seq-len", SEQ_LEN]
        command = ["measure", models.pack, *options, "--threads", 1, "--memory", f"{memory:.9f}", "--out", out]
        with pytest.raises(SystemExit) as stopped:
            main([str(part) for part in command])
        return stopped.value.code, capsys.readouterr().err

    code, shown = run(budgets["layers"] / 1e9, tmp_path / "o")
    assert code == 0 and "layer by layer" in shown
    document = json.loads((tmp_path / "o" / "measurement.json").read_text())
    assert document["measurement"]["compute"]["execution"] == "layers"
    code, shown = run(0.001, tmp_path / "p")
    assert code == 4 and "0.00 GB may be used" in shown and "hint:" in shown


def test_shares_measured_layer_by_layer_join_to_the_whole_draw(models, budgets, whole, tmp_path):
    """Two shares of one draw have one tokens digest; what one left unfinished must not serve the other."""
    state = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        models.measure(state, share="0:3", memory_bytes=budgets["spill"], progress=Layers(3))
    parts = [
        models.measure(state, share=share, memory_bytes=budgets["spill"], progress=Stop(None))
        for share in ("3:6", "0:3")
    ]
    assert [part.values.n for part in parts] == [3, 3]
    joined = tmp_path / "joined"
    joined.mkdir()
    tokenvalues.save(joined, tokenvalues.join([part.values for part in parts]))
    assert {name: (joined / name).read_bytes() for name in whole} == whole
