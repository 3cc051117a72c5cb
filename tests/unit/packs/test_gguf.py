"""GGUF files as checkpoints: values, names, order of rows, configuration, tokenizer; and hostile headers."""

import struct
import time

import gguf
import gguf_small
import numpy as np
import pytest
import torch

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError, UcauditError
from ucaudit.packs.checkpoint import write_checkpoint
from ucaudit.packs.codecs import open_source
from ucaudit.packs.codecs.gguf_header import BLOCK_FORMS, read_gguf_header
from ucaudit.packs.codecs.gguf_model import shortest_float32
from ucaudit.packs.state import reconstruct_state


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return path, gguf_small.write(path)


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 20])
def test_every_tensor_in_hugging_face_order(small, chunk_bytes):
    path, expected = small
    with open_source(path) as source:
        assert {spec.name: spec.shape for spec in source.specs} == {name: v.shape for name, v in expected.items()}
        assert source.arithmetic_profile == "ggml-f32-bf16/1"
        for name, values in expected.items():
            wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
            assert b"".join(source.stream(name, chunk_bytes=chunk_bytes)) == wanted, name


def test_configuration_and_facts(small):
    with open_source(small[0]) as source:
        config = source.config()
        assert (config["rms_norm_eps"], config["rope_theta"], config["head_dim"]) == (1e-5, 50000.0, 16)
        assert config["tie_word_embeddings"] and config["vocab_size"] == gguf_small.VOCABULARY
        assert config["eos_token_id"] == gguf_small.VOCABULARY - 1 and "pad_token_id" not in config
        assert source.ties == (("lm_head.weight", "model.embed_tokens.weight"),)
        assert source.provenance().license == "mit" and source.unclaimed() == ()
        assert 4.5 < source.bits_per_weight().compressed_on_disk < 8.5


def test_transformers_loads_the_checkpoint(small, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, expected = small
    with open_source(path) as source:
        state = write_checkpoint(source, tmp_path / "out")
        write_checkpoint(source, tmp_path / "again")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    with open_source(tmp_path / "out") as source:
        assert reconstruct_state(source) == state and source.provenance().license == "mit"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    loaded = model.state_dict()
    for name, values in expected.items():
        assert torch.equal(loaded[name], torch.from_numpy(values).to(torch.bfloat16))
    assert torch.equal(loaded["lm_head.weight"], loaded["model.embed_tokens.weight"])
    assert model.config.rope_parameters["rope_theta"] == 50000.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    tokens = tokenizer("hello")["input_ids"]
    assert [gguf_small.TOKENS[token] for token in tokens] == ["hell", "o"]
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert model.generate(torch.tensor([tokens]), max_new_tokens=3, do_sample=False).shape[1] > 2
    assert "/tmp" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_a_head_of_its_own_and_a_directory(tmp_path):
    expected = gguf_small.write(tmp_path / "x.gguf", tied=False)
    (tmp_path / "notes.txt").write_text("x")
    with open_source(tmp_path) as source:
        assert source.ties == () and not source.config()["tie_word_embeddings"]
        assert "lm_head.weight" in expected and source.unclaimed() == ("notes.txt",)
        assert source.load("lm_head.weight").shape == (gguf_small.VOCABULARY, gguf_small.HIDDEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_shared_count": 8}, "shared experts"),
        ({"rope.scaling.type": "yarn"}, "scaled rotary"),
        ({"rope.dimension_count": 8}, "partial rotary"),
        ({"attention.value_length": 8}, "keys and values"),
        ({"tensors": {"blk.0.attn_x.bias": np.zeros(64, dtype=np.float32)}}, "not mapped"),
        ({"tensors": {"blk.2.attn_q.weight": np.zeros((64, 64), dtype=np.float32)}}, "not mapped"),
        ({"tensors": {"blk.0.ffn_up_exps.weight": np.zeros((2, 8, 8), dtype=np.float32)}}, "not mapped"),
        ({"tensors": {"x": np.zeros(8, dtype=np.float64)}}, "ggml type 28"),
    ],
)
def test_models_that_are_not_read_are_named(tmp_path, options, message):
    gguf_small.write(tmp_path / "x.gguf", **options)
    with pytest.raises(CodecUnavailableError, match=message):
        open_source(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_count": 3}, "missing"),
        ({"embedding_length": 32, "attention.head_count": 2}, "expected shape"),
        ({"attention.head_count_kv": 3}, "key-value heads"),
        ({"block_count": 0}, "expected a size"),
        ({"attention.head_count": 0}, "expected a size"),
        ({"tensors": {"output.weight": np.zeros((3, 64), dtype=np.float32)}}, "output.weight"),
    ],
)
def test_metadata_that_contradicts_the_tensors(tmp_path, options, message):
    gguf_small.write(tmp_path / "x.gguf", **options)
    with pytest.raises(MalformedPackError, match=message):
        open_source(tmp_path / "x.gguf")


def test_weights_that_are_not_finite(tmp_path):
    data = bytearray((gguf_small.write(tmp_path / "x.gguf"), (tmp_path / "x.gguf").read_bytes())[1])
    with (tmp_path / "x.gguf").open("rb") as handle:
        place = read_gguf_header(handle, subject="x").tensors["blk.0.attn_q.weight"]
    data[place.begin : place.begin + 2] = b"\x00\x7e"  # the block's scale becomes a NaN
    (tmp_path / "x.gguf").write_bytes(data)
    with open_source(tmp_path / "x.gguf") as source, pytest.raises(MalformedPackError, match=r"q_proj.*not finite"):
        reconstruct_state(source)


# --- headers nobody vouches for ---------------------------------------------------------------------------
def header(tensors=1, pairs=0, version=3, body=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"x", sizes=(32,), kind=0, offset=0):
    return (
        text(name)
        + struct.pack("<I", len(sizes))
        + struct.pack(f"<{len(sizes)}Q", *sizes)
        + struct.pack("<IQ", kind, offset)
    )


def padded(data, rest=b""):
    return data + b"\0" * (-len(data) % 32) + rest


U8 = struct.pack("<I", 0)
HOSTILE = {
    "nothing": (b"GGUF", "truncated"),
    "tensors": (header(2**63), "tensors"),
    "no tensors": (header(0), "tensors"),
    "pairs": (header(1, 2**64 - 1), "metadata entries"),
    "pairs absent": (header(1, 1000), "truncated"),
    "long key": (header(1, 1, body=struct.pack("<Q", 2**62)), "a text of"),
    "key past the end": (header(1, 1, body=struct.pack("<Q", 60000)), "truncated"),
    "key not utf-8": (header(1, 1, body=text(b"\xff") + U8), "utf-8"),
    "unknown kind": (header(1, 1, body=text(b"k") + struct.pack("<I", 99)), "unknown type 99"),
    "huge array": (header(1, 1, body=text(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "array of"),
    "huge text array": (header(1, 1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 2**61)), "texts"),
    "array of arrays": (header(1, 1, body=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "array of type 9"),
    "text in array": (header(1, 1, body=text(b"k") + struct.pack("<IIQQ", 9, 8, 1, 2**60)), "truncated"),
    "key twice": (header(1, 2, body=(text(b"k") + U8 + b"\1") * 2), "twice"),
    "alignment": (header(1, 1, body=text(b"general.alignment") + struct.pack("<II", 4, 3)), "alignment"),
    "alignment zero": (header(1, 1, body=text(b"general.alignment") + struct.pack("<II", 4, 0)), "alignment"),
    "no axes": (padded(header(body=tensor(sizes=()))), "axes"),
    "many axes": (padded(header(body=tensor(sizes=(1,) * 5))), "axes"),
    "axis zero": (padded(header(body=tensor(sizes=(0, 4)))), "axes"),
    "huge axes": (padded(header(body=tensor(sizes=(2**39, 2**39, 2**39)))), "truncated"),
    "overflowing axis": (padded(header(body=tensor(sizes=(2**63,)))), "axes"),
    "control character": (padded(header(body=tensor(name=b"a\nb"))), r"U\+000A"),
    "partial block": (padded(header(body=tensor(sizes=(33,), kind=2)), b"\0" * 36), "whole Q4_0 blocks"),
    "truncated data": (padded(header(body=tensor()), b"\0" * 127), "truncated"),
    "trailing data": (padded(header(body=tensor()), b"\0" * 160), "follow the last"),
    "gap": (padded(header(body=tensor(offset=32)), b"\0" * 160), "expected"),
    "overlap": (padded(header(2, body=tensor() + tensor(b"y", offset=64)), b"\0" * 192), "expected"),
    "same name": (padded(header(2, body=tensor() + tensor(offset=128)), b"\0" * 256), "twice"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_quickly(tmp_path, what):
    data, message = HOSTILE[what]
    (tmp_path / "x.gguf").write_bytes(data)
    began = time.process_time()
    with pytest.raises(MalformedPackError, match=message) as caught:
        open_source(tmp_path / "x.gguf")
    assert time.process_time() - began < 0.5 and caught.value.subject == "x.gguf"


@pytest.mark.parametrize(
    ("version", "message"), [(1, "version 1"), (4, "version 4"), (0x03000000, "big-endian"), (0, "big-endian")]
)
def test_other_versions(tmp_path, version, message):
    (tmp_path / "x.gguf").write_bytes(header(version=version))
    with pytest.raises(CodecUnavailableError, match=message):
        open_source(tmp_path / "x.gguf")


def test_every_truncation_of_a_real_file_is_malformed(small, tmp_path):
    data = small[0].read_bytes()
    target = tmp_path / "x.gguf"
    for keep in [*range(4, 3000, 97), len(data) // 2, len(data) - 1]:
        target.write_bytes(data[:keep])
        with pytest.raises(UcauditError) as caught:
            open_source(target)
        assert type(caught.value) is MalformedPackError


def test_block_forms_are_those_of_the_authority():
    for number, (name, elements, size) in BLOCK_FORMS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (elements, size))


@pytest.mark.parametrize("value", [1e-5, 1e-6, 10000.0, 500000.0, 0.1, 3.1415927])
def test_the_shortest_decimal_of_a_float32(value):
    assert shortest_float32(float(np.float32(value))) == value
