"""Quantised checkpoints: the fixture vectors of every format to the bit, and packs that contradict themselves."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ucaudit.core.errors import CodecUnavailableError, InputError, MalformedPackError, UcauditError
from ucaudit.packs.checkpoint import write_checkpoint
from ucaudit.packs.codecs import codec_factory, open_source
from ucaudit.packs.codecs.quantised import QuantisedSource
from ucaudit.packs.codecs.quantised_math import powers_of_two, to_float32, unpack_planes, unpack_words
from ucaudit.packs.codecs.rounding import round_to
from ucaudit.packs.state import reconstruct_state

VECTORS = Path(__file__).parents[3] / "fixtures/vectors"
PACKS = sorted(path.parent for path in VECTORS.glob("*/*/expect.json"))
MODULE = "model.layers.0.mlp.up_proj"


def expected(pack):
    return json.loads((pack / "expect.json").read_text())["expect"]


def digest(source, name, **options):
    hasher = hashlib.sha256()
    for chunk in source.stream(name, **options):
        hasher.update(chunk)
    return hasher.hexdigest()


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: f"{pack.parent.name}-{pack.name}")
def test_vectors(pack):
    for profile, tensors in expected(pack).items():
        with open_source(pack, profile=profile) as source:
            assert source.codec == pack.parent.name and isinstance(source, QuantisedSource)
            assert [spec.name for spec in source.specs] == sorted([*tensors, "model.norm.weight"])
            for name, wanted in tensors.items():
                spec = source.spec(name)
                assert spec.shape == tuple(wanted["shape"])
                assert str(source.load(name).dtype) == f"torch.{wanted['dtype']}"
                for size in (1, 700, 1 << 20):
                    assert digest(source, name, chunk_bytes=size) == wanted["sha256"]


def test_every_profile_of_every_codec_has_a_vector():
    seen = {(pack.parent.name, profile) for pack in PACKS for profile in expected(pack)}
    codecs = {pack.parent.name for pack in PACKS}
    named = {(name, profile) for name in codecs for profile in profiles(name)}
    assert seen == named


def profiles(codec):
    with open_source(next(pack for pack in PACKS if pack.parent.name == codec)) as source:
        return source.profiles or (source.arithmetic_profile,)


def test_a_written_checkpoint_is_plain(tmp_path):
    pack = VECTORS / "gptq/gptq4-gptq-ordered-1"
    with open_source(pack) as source:
        state = write_checkpoint(source, tmp_path / "out")
        assert source.bits_per_weight().nominal == 4 and 4 < source.bits_per_weight().compressed_on_disk < 8
        assert source.ties == ()
    with open_source(tmp_path / "out") as plain:
        assert plain.codec == "safetensors" and reconstruct_state(plain) == state
        assert "quantization_config" not in plain.config() and plain.config()["dtype"] == "bfloat16"


# --- packs that contradict themselves -----------------------------------------------------------------------
def changed(tmp_path, vector, *, tensors=None, section=None, config=None, drop=()):
    """A copy of a vector's pack with some tensors (name → function or value) and settings changed."""
    pack = tmp_path / "pack"
    shutil.copytree(VECTORS / vector, pack)
    stored = load_file(pack / "model.safetensors")
    for name in drop:
        del stored[f"{MODULE}.{name}"]
    for name, change in (tensors or {}).items():
        full = name if name.startswith("model") else f"{MODULE}.{name}"
        stored[full] = change(stored[full].clone()) if callable(change) else change
    save_file(stored, pack / "model.safetensors")
    settings = json.loads((pack / "config.json").read_text())
    settings["quantization_config"].update(section or {})
    settings.update(config or {})
    (pack / "config.json").write_text(json.dumps(settings))
    return pack


def put(place, value):
    def change(tensor):
        tensor.view(-1)[place] = value
        return tensor

    return change


NAN, INF = float("nan"), float("inf")
GPTQ, AWQ = "gptq/gptq4-gptq-ordered-1", "awq/awq-0"
CT, CT8, ORDER = (f"compressed-tensors/{name}" for name in ("pack5-asym-group-1", "int-group-1", "order4-sym-1"))
NF4, NESTED, INT8 = (f"bitsandbytes/{name}" for name in ("nf4-plain-0", "nf4-nested-1", "int8-1"))
FP8, BLOCK = "fp8/fp8tensor-1", "fp8/fp8block-2"
EXPERTS, NVFP4 = "mxfp4/mxfp4-0", "nvfp4/nvfp4-1"
UP = "model.layers.0.mlp.experts.gate_up_proj"


def state_of(**changes):
    value = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 64], **changes}
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


STATE = "weight.quant_state.bitsandbytes__nf4"
HOSTILE = {
    "gptq: group past the last": (GPTQ, {"tensors": {"g_idx": put(3, 2)}}, r"'.*g_idx': column 3 is in group 2"),
    "gptq: negative group": (GPTQ, {"tensors": {"g_idx": put(0, -1)}}, r"column 0 is in group -1"),
    "gptq: huge group": (GPTQ, {"tensors": {"g_idx": put(5, 2**31 - 1)}}, r"column 5 is in group 2147483647"),
    "gptq: nan scale": (GPTQ, {"tensors": {"scales": put(0, NAN)}}, "scale in tensor '.*scales' is infinite"),
    "gptq: infinite scale": (GPTQ, {"tensors": {"scales": put(1, INF)}}, "infinite or not a number"),
    "gptq: no zeros": (GPTQ, {"drop": ["qzeros"]}, "tensor '.*qzeros' is missing"),
    "gptq: no scales": (GPTQ, {"drop": ["scales"]}, "neither gptq nor awq"),
    "gptq: other bits": (GPTQ, {"section": {"bits": 8}}, "expected shape"),
    "gptq: nine bits": (GPTQ, {"section": {"bits": 9}}, "9 bits"),
    "gptq: bits as text": (GPTQ, {"section": {"bits": "4"}}, "bits is '4'"),
    "gptq: group of zero": (GPTQ, {"section": {"group_size": 0}}, "group size 0"),
    "gptq: short g_idx": (GPTQ, {"tensors": {"g_idx": lambda t: t[:-1].clone()}}, "expected shape"),
    "gptq: float codes": (GPTQ, {"tensors": {"qweight": lambda t: t.float()}}, "expected dtype I32, found F32"),
    "gptq: overflow": (GPTQ, {"tensors": {"scales": lambda t: t.float().fill_(3e38)}}, "too large for float32"),
    "awq: no zeros": (AWQ, {"drop": ["qzeros"]}, "is missing"),
    "awq: other group": (AWQ, {"section": {"group_size": 16}}, "expected shape"),
    "ct: shape lies": (CT, {"tensors": {"weight_shape": put(1, 63)}}, "padding code at the end"),
    "ct: rows lie": (CT, {"tensors": {"weight_shape": put(0, 9)}}, "says 9 rows"),
    "ct: negative shape": (CT, {"tensors": {"weight_shape": put(1, -1)}}, "-1 columns"),
    "ct: no shape": (CT, {"drop": ["weight_shape"]}, "weight_shape' is missing"),
    "ct: no scale": (CT, {"drop": ["weight_scale"]}, "weight_scale' is missing"),
    "ct: nan": (CT, {"tensors": {"weight_scale": put(0, NAN)}}, "infinite or not a number"),
    "ct: no groups": (CT, {"section": {"config_groups": {}}}, "fit 0 of the config groups"),
    "ct: zeros of another shape": (
        CT,
        {"tensors": {"weight_zero_point": lambda t: t[:-1].clone()}},
        "weight_zero_point.*expected shape",
    ),
    "ct: group past the last": (ORDER, {"tensors": {"weight_g_idx": put(7, 9)}}, "column 7 is in group 9"),
    "ct: scales of another shape": (CT8, {"tensors": {"weight_scale": lambda t: t[:, :1].clone()}}, "fit 0 of"),
    "bnb: state is no json": (NF4, {"tensors": {STATE: put(0, 0)}}, "not json"),
    "bnb: block of zero": (NF4, {"tensors": {STATE: state_of(blocksize=0)}}, "blocksize is 0"),
    "bnb: odd block": (NF4, {"tensors": {STATE: state_of(blocksize=63)}}, "blocksize is 63"),
    "bnb: negative shape": (NF4, {"tensors": {STATE: state_of(shape=[-8, 64])}}, "shape is"),
    "bnb: huge shape": (NF4, {"tensors": {STATE: state_of(shape=[2**39, 2**39])}}, "expected shape"),
    "bnb: no shape": (NF4, {"tensors": {STATE: state_of(shape=[])}}, "shape is"),
    "bnb: other type": (NF4, {"tensors": {STATE: state_of(quant_type="fp4")}}, "no quantisation state of type nf4"),
    "bnb: other dtype": (NF4, {"tensors": {STATE: state_of(dtype="int8")}}, "no quantisation state"),
    "bnb: large state": (NF4, {"tensors": {STATE: torch.zeros(70000, dtype=torch.uint8)}}, "has 70000 bytes"),
    "bnb: short absmax": (NF4, {"tensors": {"weight.absmax": lambda t: t[:-1].clone()}}, "expected shape"),
    "bnb: nan absmax": (NF4, {"tensors": {"weight.absmax": put(0, NAN)}}, "infinite or not a number"),
    "bnb: no map": (NF4, {"drop": ["weight.quant_map"]}, "is missing"),
    "bnb: no nested map": (NESTED, {"drop": ["weight.nested_quant_map"]}, "is missing"),
    "bnb: no offset": (
        NESTED,
        {"tensors": {STATE: state_of(nested_blocksize=256, shape=[3, 128], blocksize=128)}},
        "offset",
    ),
    "bnb: short SCB": (INT8, {"tensors": {"SCB": lambda t: t[:-1].clone()}}, "expected shape"),
    "bnb: tiled format": (INT8, {"tensors": {"weight_format": torch.tensor(1, dtype=torch.uint8)}}, "row-major"),
    "fp8: not a number": (
        FP8,
        {"tensors": {"weight": lambda t: t.view(torch.uint8).fill_(255).view(t.dtype)}},
        "not finite",
    ),
    "fp8: nan scale": (FP8, {"tensors": {"weight_scale": torch.tensor(NAN)}}, "infinite or not a number"),
    "fp8: scales of another shape": (BLOCK, {"section": {"weight_block_size": [4, 8]}}, "expected shape"),
    "fp8: block of zero": (BLOCK, {"section": {"weight_block_size": [0, 8]}}, "weight_block_size"),
    "mxfp4: not a number": (EXPERTS, {"tensors": {f"{UP}_scales": put(0, 255)}}, "exponent 255"),
    "mxfp4: scales of another shape": (
        EXPERTS,
        {"tensors": {f"{UP}_scales": lambda t: t[..., None].clone()}},
        "expected shape",
    ),
    "nvfp4: no scale": (NVFP4, {"drop": ["weight_scale"]}, "is missing"),
    "nvfp4: nan scale": (NVFP4, {"tensors": {"weight_scale_2": torch.tensor(NAN)}}, "infinite or not a number"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_pack_that_contradicts_itself(tmp_path, what):
    vector, changes, message = HOSTILE[what]
    pack = changed(tmp_path, vector, **changes)
    with pytest.raises(MalformedPackError, match=message) as caught, open_source(pack) as source:
        reconstruct_state(source)
    assert caught.value.subject.startswith("pack") and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("vector", "section", "message"),
    [
        (GPTQ, {"checkpoint_format": "marlin"}, "checkpoint format 'marlin'"),
        (GPTQ, {"dynamic": {"+:.*": {"bits": 8}}}, "other settings"),
        (AWQ, {"version": "gemv"}, "gemm are read"),
        (AWQ, {"bits": 3}, "3 bits"),
        (CT, {"sparsity_config": {"format": "sparse-24"}}, "sparse"),
        (CT, {"transform_config": {"config_groups": {"u": {}}}}, "transforms"),
    ],
)
def test_variants_that_are_not_read_are_named(tmp_path, vector, section, message):
    with pytest.raises(CodecUnavailableError, match=message):
        open_source(changed(tmp_path, vector, section=section))


def test_what_the_settings_say_is_held_against_the_tensors(tmp_path):
    pack = changed(tmp_path, GPTQ, section={"quant_method": "awq"})
    with pytest.raises(InputError, match="says awq, the stored tensors are gptq") as caught:
        open_source(pack)
    assert "another checkpoint" in caught.value.hint
    shutil.rmtree(pack)
    stored = torch.zeros(2, 2)
    plain = changed(tmp_path, GPTQ, drop=["qweight", "qzeros", "scales", "g_idx"], tensors={"weight": stored})
    with pytest.raises(InputError, match="says gptq, but no stored tensor"):
        open_source(plain)


def test_a_mixed_checkpoint_says_what_was_seen(tmp_path):
    other = load_file(VECTORS / NF4 / "model.safetensors")
    mixed = {f"model.layers.1.{name.removeprefix('model.layers.0.')}": value for name, value in other.items()}
    with pytest.raises(InputError, match=r"bitsandbytes \(.*layers\.1.*\) and gptq \(.*layers\.0"):
        open_source(changed(tmp_path, GPTQ, tensors=mixed))


def test_stored_plain_and_compressed(tmp_path):
    with pytest.raises(MalformedPackError, match="stored plain and compressed"):
        open_source(changed(tmp_path, GPTQ, tensors={"weight": torch.zeros(64, 128)}))


def test_settings_in_a_file_of_their_own(tmp_path):
    pack = changed(tmp_path, GPTQ)
    config = json.loads((pack / "config.json").read_text())
    (pack / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (pack / "config.json").write_text(json.dumps(config))
    with open_source(pack) as source:
        wanted = expected(VECTORS / GPTQ)["gptq-scale/1"][f"{MODULE}.weight"]["sha256"]
        assert digest(source, f"{MODULE}.weight") == wanted


def test_a_file_of_another_name_and_files_beside_the_checkpoint(tmp_path):
    pack = changed(tmp_path, GPTQ)
    wanted = expected(VECTORS / GPTQ)["gptq-scale/1"][f"{MODULE}.weight"]["sha256"]
    other = VECTORS / NF4 / "model.safetensors"
    shutil.copy(other, pack / "consolidated.safetensors")
    with open_source(pack) as source:
        assert digest(source, f"{MODULE}.weight") == wanted
    (pack / "consolidated.safetensors").unlink()
    (pack / "model.safetensors").rename(pack / "gptq_model-4bit-128g.safetensors")
    with open_source(pack) as source:
        assert digest(source, f"{MODULE}.weight") == wanted
    shutil.copy(other, pack / "second.safetensors")
    with pytest.raises(InputError, match="ambiguous"):
        open_source(pack)


def test_scales_of_activations_are_left_out(tmp_path):
    extra = {"input_scale": torch.ones(1)}
    with open_source(changed(tmp_path, FP8, tensors=extra)) as source:
        assert source.left_out == (f"{MODULE}.input_scale",)
        assert f"{MODULE}.input_scale" not in {spec.name for spec in source.specs}


def test_codes_that_stand_behind_the_last_one(tmp_path):
    pack = changed(tmp_path, "compressed-tensors/pack5-sym-channel-3", tensors={"weight_packed": put(-1, -1)})
    with pytest.raises(MalformedPackError, match=r"up_proj.weight.*behind|padding code"):
        reconstruct_state(open_source(pack))


def test_truncated_files_are_malformed(tmp_path):
    for vector in (GPTQ, CT, NF4, BLOCK):
        data = (VECTORS / vector / "model.safetensors").read_bytes()
        pack = tmp_path / vector.replace("/", "-")
        shutil.copytree(VECTORS / vector, pack)
        for keep in (0, 7, 60, len(data) // 2, len(data) - 1):
            (pack / "model.safetensors").write_bytes(data[:keep])
            with pytest.raises(UcauditError) as caught:
                open_source(pack)
            assert type(caught.value) is MalformedPackError


# --- the pieces ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_dense_stream_by_hand(bits):
    codes = [(7 * index) % (1 << bits) for index in range(50)]
    stream = sum(code << (bits * index) for index, code in enumerate(codes))
    words = np.frombuffer(stream.to_bytes(4 * -(-50 * bits // 32), "little"), dtype="<i4").copy()
    assert unpack_words(torch.from_numpy(words).view(1, -1), bits, 50).tolist() == [codes]


def test_planes_by_hand():
    codes = list(range(32))
    low = sum((code & 15) << (4 * index) for index, code in enumerate(codes))
    high = sum((code >> 4) << index for index, code in enumerate(codes))
    words = np.frombuffer(low.to_bytes(16, "little") + high.to_bytes(4, "little"), dtype="<i4").copy()
    assert unpack_planes(torch.from_numpy(words).view(1, -1), 5, 32).tolist() == [codes]


def test_rounding_is_numpys_and_never_infinite():
    bits = torch.arange(0, 2**31, 65537 * 3, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    fits = values[values < 65519.0]
    assert round_to(fits.clone(), "F16").numpy().tobytes() == fits.numpy().astype(np.float16).tobytes()
    with pytest.raises(MalformedPackError, match="too large for float16"):
        round_to(torch.tensor([65520.0]), "F16")
    with pytest.raises(MalformedPackError, match="too large for float32"):
        round_to(torch.tensor([INF]), "F32")
    halves = torch.tensor([1, 0x8001, 0x7F7F], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert to_float32(halves).view(torch.int32).tolist() == [0x10000, 0x80010000 - 2**32, 0x7F7F0000]
    assert powers_of_two(torch.tensor([0, 1, 127, 254], dtype=torch.uint8)).tolist() == [
        2.0**-127, 2.0**-126, 1.0, 2.0**127,
    ]  # fmt: skip


def test_the_registry_has_them_all():
    for name in ("gptq", "awq", "compressed-tensors", "bitsandbytes", "fp8", "mxfp4", "nvfp4"):
        assert callable(codec_factory(name))


def test_the_second_zero_of_fp4_has_a_sign_by_the_profile_that_says_so(tmp_path):
    """bitsandbytes disagrees with itself: its map has one zero twice, its CUDA code multiplies by the sign."""
    pack = VECTORS / "bitsandbytes" / "fp4-plain-6"
    spoilt = shutil.copytree(pack, tmp_path / "pack")
    tensors = load_file(pack / "model.safetensors")
    (name,) = (one for one in tensors if one.endswith("up_proj.weight"))
    tensors[name].view(-1)[:2] = torch.tensor([0x80, 0x08], dtype=torch.uint8)
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    values = {}
    for profile in ("bnb-f32/1", "bnb-f32-negative-zero/1"):
        with open_source(spoilt, profile=profile) as source:
            values[profile] = source.load(name).float().view(-1)
    plain, signed = values.values()
    assert plain[:4].tolist() == signed[:4].tolist() == [0.0] * 4
    assert plain[:4].signbit().tolist() == [False] * 4
    assert signed[:4].signbit().tolist() == [True, False, False, True]
    different = plain.view(torch.int32) != signed.view(torch.int32)
    assert bool((plain[different] == 0).all())
