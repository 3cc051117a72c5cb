"""Writing checkpoints, comparing states, and the errors a layer."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import ucq_oracle as oracle
from safetensors import safe_open

from ucaudit.core import tensorfile
from ucaudit.core.errors import ModelError, OutputError, RefusedError, StateDriftError
from ucaudit.packs import checkpoint as module
from ucaudit.packs.checkpoint import write_checkpoint
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import compare_states, reconstruct_state, relative_errors


@pytest.fixture
def pack(tmp_path):
    compressed = {f"model.layers.{i}.w": oracle.random_stored(i, (8, 24), rank=i) for i in range(3)}
    raw = {"model.norm.weight": ("F32", (5,), os.urandom(20)), "flag": ("U8", (3,), b"abc")}
    oracle.write_pack(tmp_path / "p", compressed, raw)
    (tmp_path / "p" / "tokenizer.json").write_text("{}")
    (tmp_path / "p" / "LICENSE").write_text("licence text")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    oracle.write_manifest(tmp_path / "p", manifest)
    return tmp_path / "p"


def digest_tree(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


@pytest.mark.parametrize("shard_bytes", [1 << 30, 800, 1])
def test_a_checkpoint_holds_exactly_the_tensors(tmp_path, pack, shard_bytes):
    with open_source(pack) as source:
        state = write_checkpoint(source, tmp_path / "out", shard_bytes=shard_bytes)
        again = write_checkpoint(source, tmp_path / "again", shard_bytes=shard_bytes)
        assert state == again == source.published_state()
    assert digest_tree(tmp_path / "out") == digest_tree(tmp_path / "again")
    assert (tmp_path / "out" / "LICENSE").read_text() == "licence text"
    assert not (tmp_path / "out" / "STATE").exists()
    names = set()
    for file in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(file, framework="pt") as third_party:
            assert third_party.metadata() == {"format": "pt"}
            names |= set(third_party.keys())
    assert names == {entry.name for entry in state.entries}
    with open_source(tmp_path / "out") as source:
        assert reconstruct_state(source) == state
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out", "p"]


def test_a_state_line_is_sha256_of_the_raw_bytes_in_the_checkpoint(tmp_path, pack):
    with open_source(pack) as source:
        state = write_checkpoint(source, tmp_path / "out")
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    with (tmp_path / "out" / "model.safetensors").open("rb") as handle:
        header = tensorfile.read_header(handle, subject="x")
    for entry in state.entries:
        place = header.tensors[entry.name]
        assert hashlib.sha256(data[place.begin : place.end]).hexdigest() == entry.digest
        assert place.begin % tensorfile.DTYPE_SIZES[entry.dtype] == 0


def test_a_used_output_is_refused_before_anything_is_decoded(tmp_path, pack, monkeypatch):
    monkeypatch.setattr(module, "reconstruct_state", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("keep")
    with open_source(pack) as source:
        with pytest.raises(RefusedError):
            write_checkpoint(source, tmp_path / "out")
        with pytest.raises(RefusedError):
            write_checkpoint(source, tmp_path / "out" / "x")
    assert (tmp_path / "out" / "x").read_text() == "keep"


def test_an_interrupted_run_leaves_nothing(tmp_path, pack, monkeypatch):
    with open_source(pack) as source:

        def interrupted(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(source, tmp_path / "out")

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left"):
            write_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_unwritable_output(tmp_path, pack):
    (tmp_path / "file").write_text("x")
    with open_source(pack) as source, pytest.raises(OutputError):
        write_checkpoint(source, tmp_path / "file" / "out")


def test_drift_is_named(pack):
    with open_source(pack) as source:
        state = reconstruct_state(source)
        compare_states(state, state, subject="p")
        other = type(state)(state.entries[1:])
        with pytest.raises(StateDriftError, match="flag: not in the expected state"):
            compare_states(other, state, subject="p")


def test_errors_against_numpy(tmp_path, pack):
    rng = np.random.default_rng(0)
    with open_source(pack) as source:
        tensors = {}
        for spec in source.specs:
            if spec.dtype == "BF16":
                values = source.load(spec.name).float().numpy() + rng.normal(size=spec.shape).astype("<f4")
                tensors[spec.name] = ("F32", spec.shape, values.astype("<f4").tobytes())
            else:
                tensors[spec.name] = (spec.dtype, spec.shape, b"".join(source.stream(spec.name)))
        tensors["model.norm.weight"] = ("F32", (5,), np.ones(5, dtype="<f4").tobytes())
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "config.json").write_text("{}")
        tensorfile.write(tmp_path / "r" / "model.safetensors", tensors)
        with open_source(tmp_path / "r") as reference:
            found = relative_errors(source, reference)
            assert "flag" not in found and len(found) == 4
            for name in ("model.layers.0.w", "model.layers.2.w"):
                mine = source.load(name).double().numpy()
                theirs = reference.load(name).double().numpy()
                assert found[name] == pytest.approx((((mine - theirs) ** 2).sum(), (theirs**2).sum()), rel=1e-12)
            own = relative_errors(reference, reference)
            assert all(difference == 0.0 for difference, _ in own.values())


@pytest.mark.parametrize("what", ["missing", "shape"])
def test_errors_need_the_same_tensors(tmp_path, pack, what):
    with open_source(pack) as source:
        tensors = {spec.name: (spec.dtype, spec.shape, bytes(spec.nbytes)) for spec in source.specs}
        if what == "missing":
            del tensors["flag"]
        else:
            tensors["flag"] = ("U8", (1, 3), b"abc")
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "config.json").write_text("{}")
        tensorfile.write(tmp_path / "r" / "model.safetensors", tensors)
        with open_source(tmp_path / "r") as reference, pytest.raises(ModelError, match="flag"):
            relative_errors(source, reference)


MEMORY = """
import resource, sys
from pathlib import Path
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_source(Path(sys.argv[1])) as source:
    reconstruct_state(source)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_below_three_times_the_largest_tensor(tmp_path):
    """The contract: 3 × the largest tensor in float32, above what importing torch costs."""
    rows, columns = 3000, 2048
    stored = oracle.random_stored(1, (1, columns), group=64, rank=4)
    repeated = {part: np.repeat(getattr(stored, part), rows, axis=0) for part in ("codes", "scales", "u", "rows")}
    oracle.write_pack(tmp_path, {"w": replace(stored, shape=(rows, columns), **repeated)}, state=b"x")
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 3 * rows * columns * 4


def test_threads_do_not_change_the_state_and_torchs_own_setting_survives(pack):
    before = torch.get_num_threads()
    with open_source(pack) as source:
        states = {reconstruct_state(source, threads=threads).digest for threads in (1, 2, 7, None)}
        assert states == {source.published_state().digest}
        order = {}
        reconstruct_state(
            source, threads=4, sink=lambda spec, chunk: order.setdefault(spec.name, []).append(len(chunk))
        )
        assert {name: sum(sizes) for name, sizes in order.items()} == {
            spec.name: spec.nbytes for spec in source.specs
        }
    assert torch.get_num_threads() == before


def test_an_error_in_one_tensor_stops_the_others(pack):
    def sink(spec, chunk):
        if spec.name == "model.layers.1.w":
            raise ModelError("enough")

    with open_source(pack) as source, pytest.raises(ModelError, match="enough"):
        reconstruct_state(source, threads=2, sink=sink)
