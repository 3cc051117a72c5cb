"""GGUF models of every mapped architecture, split models, profiles, and architectures without a rule."""

import json
import struct
from pathlib import Path

import gguf
import gguf_small
import numpy as np
import pytest
import torch
from transformers import AutoConfig

from ucaudit.core.errors import CodecUnavailableError, InputError, MalformedPackError
from ucaudit.packs.codecs import open_source
from ucaudit.packs.codecs.gguf_model import _llama3_factors
from ucaudit.packs.state import reconstruct_state

VECTORS = Path(__file__).parents[3] / "fixtures/vectors/gguf"
FAMILIES = json.loads((VECTORS / "families.json").read_text())["expect"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_converter_wrote_gives_the_checkpoint_back(family):
    with open_source(VECTORS / f"{family}.gguf") as source:
        assert reconstruct_state(source).digest == FAMILIES[family]["state"]
        config = source.config()
        wanted = FAMILIES[family]["config"]
        wanted = {key: value for key, value in wanted.items() if not key.endswith("_token_id")}  # of no vocabulary
        positions = wanted.pop("rope_parameters", {})
        assert {key: config.get(key, value) for key, value in wanted.items()} == wanted
        loaded = AutoConfig.for_model(**config).to_dict()
        assert loaded["rope_parameters"].items() >= positions.items()
        assert config["tie_word_embeddings"] == bool(source.ties)


def test_the_float32_profile(tmp_path):
    expected = gguf_small.write(tmp_path / "x.gguf")
    with open_source(tmp_path / "x.gguf", profile="ggml-f32/1") as source:
        assert source.arithmetic_profile == "ggml-f32/1" and source.config()["dtype"] == "float32"
        for name, values in expected.items():
            assert source.spec(name).dtype == "F32"
            assert b"".join(source.stream(name, chunk_bytes=999)) == values.tobytes()
    with pytest.raises(InputError, match="no arithmetic profile 'ggml-f16/1'") as caught:
        open_source(tmp_path / "x.gguf", profile="ggml-f16/1")
    assert "ggml-f32-bf16/1, ggml-f32/1" in caught.value.hint


def test_a_codec_with_one_profile_takes_its_own_name_alone(tmp_path):
    pack = Path(__file__).parents[3] / "fixtures/pack"
    open_source(pack, profile="ucq-f32-bf16/1").close()
    with pytest.raises(InputError, match="no arithmetic profile"):
        open_source(pack, profile="identity/1")


def split_writer(directory, shards=3, change=None):
    expected = gguf_small.write(directory / "whole.gguf")
    reader = gguf.GGUFReader(directory / "whole.gguf")
    tensors = list(reader.tensors)
    names = [directory / f"m-{index + 1:05d}-of-{shards:05d}.gguf" for index in range(shards)]
    for index, name in enumerate(names):
        writer = gguf.GGUFWriter(name, "llama")
        writer.add_uint16("split.no", index if change is None else change)
        writer.add_uint16("split.count", shards)
        if index == 0:
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    kind = field.types[0]
                    sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(field.name, field.contents(), kind, sub)
        for tensor in tensors[index::shards]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with open_source(directory / "whole.gguf") as source:
        digest = reconstruct_state(source).digest
    (directory / "whole.gguf").unlink()
    return expected, digest


def test_a_model_split_over_files(tmp_path):
    _, digest = split_writer(tmp_path)
    with open_source(tmp_path) as source:
        assert reconstruct_state(source).digest == digest and source.unclaimed() == ()
    with pytest.raises(InputError, match="of which 1 are here"):
        open_source(tmp_path / "m-00001-of-00003.gguf")


def test_a_split_that_lies_about_its_number(tmp_path):
    split_writer(tmp_path, change=0)
    with pytest.raises(MalformedPackError, match="expected 1 of 3"):
        open_source(tmp_path)


def test_an_architecture_without_a_rule_keeps_its_names(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "gemma3")
    writer.add_tensor("blk.0.attn_norm.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_source(tmp_path / "x.gguf") as source:
        assert [spec.name for spec in source.specs] == ["blk.0.attn_norm.weight"] and source.ties == ()
        wanted = torch.from_numpy(values).to(torch.bfloat16)
        assert torch.equal(source.load("blk.0.attn_norm.weight"), wanted)
        assert source.bits_per_weight().compressed_on_disk is None
        with pytest.raises(CodecUnavailableError, match="'gemma3' is not mapped"):
            source.config()


@pytest.mark.parametrize("factors", [[1.0] * 8, [2.0] * 7])
def test_rotary_factors_of_an_unknown_making(tmp_path, factors):
    gguf_small.write(tmp_path / "x.gguf", tensors={"rope_freqs.weight": np.array(factors, dtype=np.float32)})
    with open_source(tmp_path / "x.gguf") as source:
        assert len(reconstruct_state(source).entries) == len(source.specs)
        with pytest.raises(CodecUnavailableError, match="rope_freqs"):
            source.config()


def test_llama3_factors_by_hand():
    factors = _llama3_factors(500000.0, 128, 8.0, 1.0, 4.0, 8192)
    assert factors[0] == 1.0 and factors[-1] == 8.0 and sorted(factors) == factors
    assert struct.pack("<f", factors[40]) == struct.pack("<f", 8.0)


def test_many_promised_layers_cost_nothing(tmp_path):
    gguf_small.write(tmp_path / "x.gguf", block_count=2**31 - 1)
    with pytest.raises(MalformedPackError, match=r"layers\.2\.input_layernorm\.weight' is missing"):
        open_source(tmp_path / "x.gguf")


@pytest.mark.parametrize("kind", ["IQ1_S", "TQ2_0"])
def test_types_that_gguf_decodes(tmp_path, kind):
    number = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[number]
    stored = np.random.default_rng(1).integers(0, 256, (3, size), dtype=np.uint8)
    stored[:, 1 if kind == "IQ1_S" else 65] = 0x2C
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "other")
    writer.add_tensor("w", stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_source(tmp_path / "x.gguf", profile="ggml-f32/1") as source:
        wanted = gguf.quants.dequantize(stored, number)
        assert b"".join(source.stream("w", chunk_bytes=1)) == wanted.tobytes()
