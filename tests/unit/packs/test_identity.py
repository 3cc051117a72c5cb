"""Plain checkpoints: single or sharded, dtypes as stored, and what contradicts itself."""

import hashlib
import json

import pytest
import torch

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError, UcauditError
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state

EMBEDDING = ("BF16", (3, 2), bytes(range(12)))
TENSORS = {
    "model.embed_tokens.weight": EMBEDDING,
    "b": ("F8_E4M3", (5,), b"\x7f\x80abc"),
    "a": ("F32", (2,), b"\0\0\x80\x7f\x01\0\0\0"),
    "n": ("I64", (), b"\x01" * 8),
}


def checkpoint(path, tensors=TENSORS, config=None):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config if config is not None else {"model_type": "llama"}))
    tensorfile.write(path / "model.safetensors", tensors)
    return path


def sharded(path, weight_map=None, **shards):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    mapping = {}
    for file, tensors in shards.items():
        tensorfile.write(path / f"{file}.safetensors", tensors)
        mapping |= dict.fromkeys(tensors, f"{file}.safetensors")
    index = {"metadata": {}, "weight_map": mapping if weight_map is None else weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_bytes_as_stored(tmp_path):
    with open_source(checkpoint(tmp_path / "m")) as source:
        assert [spec.name for spec in source.specs] == ["a", "b", "model.embed_tokens.weight", "n"]
        assert source.arithmetic_profile == "identity/1" and source.published_state() is None
        for name, (_, _, data) in TENSORS.items():
            assert b"".join(source.stream(name, chunk_bytes=3)) == data
        assert source.load("a")[0].isinf() and source.load("b").dtype == torch.float8_e4m3fn
        state = reconstruct_state(source)
        assert {entry.name: entry.digest for entry in state.entries} == {
            name: hashlib.sha256(data).hexdigest() for name, (_, _, data) in TENSORS.items()
        }
        assert source.bits_per_weight().compressed_on_disk is None


def test_shards_have_the_state_of_the_single_file(tmp_path):
    one = dict(list(TENSORS.items())[:2])
    two = dict(list(TENSORS.items())[2:])
    parts = {"model-00001-of-00002": one, "model-00002-of-00002": two}
    with open_source(sharded(tmp_path / "s", **parts)) as source, open_source(checkpoint(tmp_path / "m")) as single:
        assert reconstruct_state(source) == reconstruct_state(single)


@pytest.mark.parametrize(
    ("config", "extra", "tied"),
    [
        ({"tie_word_embeddings": True}, {}, True),
        ({}, {}, True),
        ({"tie_word_embeddings": False}, {}, False),
        ({"tie_word_embeddings": True}, {"lm_head.weight": EMBEDDING}, False),
    ],
)
def test_ties(tmp_path, config, extra, tied):
    with open_source(checkpoint(tmp_path / "m", TENSORS | extra, config)) as source:
        assert source.ties == ((("lm_head.weight", "model.embed_tokens.weight"),) if tied else ())


def test_the_licence_is_the_model_cards(tmp_path):
    checkpoint(tmp_path)
    with open_source(tmp_path) as source:
        assert source.provenance().license is None
    (tmp_path / "LICENSE").write_text("x")
    with open_source(tmp_path) as source:
        assert source.provenance().license == "see LICENSE"
        assert source.carried_files() == ("LICENSE", "config.json")
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: mit\n")
    with open_source(tmp_path) as source:
        assert source.provenance().license == "apache-2.0"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "weight_map"),
        ("text", "weight_map"),
        ({"a": "../model.safetensors"}, "not in the pack"),
        ({"a": "/etc/hostname"}, "not in the pack"),
        ({"a": 3}, "not in the pack"),
        ({"a": "config.json"}, "not in the pack"),
        ({"a": "model-1.safetensors", "z": "model-1.safetensors"}, "not there"),
        ({"z": "model-1.safetensors"}, "not in the index"),
    ],
)
def test_an_index_that_lies(tmp_path, weight_map, message):
    sharded(tmp_path / "s", weight_map, **{"model-1": {"a": TENSORS["a"]}})
    with pytest.raises(MalformedPackError, match=message):
        open_source(tmp_path / "s")


def test_an_index_beside_a_single_file(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map":{"a":"model.safetensors"}}')
    with pytest.raises(MalformedPackError, match="which of the two"):
        open_source(tmp_path)


def test_a_directory_of_other_safetensors_files(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-part.safetensors")
    with pytest.raises(MalformedPackError, match="neither"):
        open_source(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncation(tmp_path, keep):
    file = checkpoint(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UcauditError) as caught:
        open_source(tmp_path)
    assert type(caught.value) is MalformedPackError
