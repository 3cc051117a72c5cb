import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors" / "ucq"))
import ucq_oracle as oracle

from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import ModelError
from ucaudit.packs.codecs import open_source
from ucaudit.packs.codecs.tensors import raw_bytes
from ucaudit.packs.codecs.ucq_encode import EncodedOverlay, EncodedTensor, PackDescription, PackWriter, pack_codes
from ucaudit.packs.codecs.ucq_math import unpack_codes
from ucaudit.packs.manifest import Source
from ucaudit.packs.state import reconstruct_state


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 64, 71])
def test_codes_survive_packing(bits, columns):
    generator = torch.Generator().manual_seed(bits * 100 + columns)
    codes = torch.randint(0, 1 << bits, (5, columns), generator=generator, dtype=torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (5, -(-columns // 8) * bits) and packed.dtype == torch.uint8
    assert torch.equal(unpack_codes(packed, bits, columns), codes)


def test_the_stream_is_little_endian_and_starts_with_the_lowest_bit():
    codes = torch.tensor([[1, 2, 31, 0, 0, 0, 0, 16, 3]], dtype=torch.uint8)
    stream = sum(int(code) << (5 * place) for place, code in enumerate(codes[0, :8]))
    assert bytes(pack_codes(codes, 5)[0]) == stream.to_bytes(5, "little") + bytes([3, 0, 0, 0, 0])


@pytest.mark.parametrize(("bits", "code"), [(5, 32), (2, 4), (9, 0), (1, 0)])
def test_a_code_that_does_not_fit_is_refused(bits, code):
    with pytest.raises(ModelError):
        pack_codes(torch.tensor([[code]], dtype=torch.uint8), bits)


def encoded(name="model.layers.0.a.weight", shape=(6, 20), bits=5, group=8, rank=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, size, dtype):
        return torch.randint(low, high, size, generator=generator).to(dtype)

    rows, columns = shape[0] if len(shape) == 2 else shape[0] * shape[1], shape[-1]
    overlay = None
    if rank:
        overlay = EncodedOverlay(
            integers(-127, 128, (rows, rank), torch.int8),
            integers(-127, 128, (rank, columns), torch.int8),
            (torch.randn(rows, generator=generator) * 1e-3).bfloat16(),
            (torch.randn(columns, generator=generator) * 1e-3).bfloat16(),
        )
    return EncodedTensor(
        name,
        shape,
        bits,
        group,
        integers(0, 1 << bits, (rows, columns), torch.uint8),
        torch.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=torch.int8) * (2 if bits < 8 else 1),
        (torch.rand(rows, -(-columns // group), generator=generator) * 0.01).half(),
        overlay,
    )


def write(stage, tensors, raw=()):
    stage.mkdir(exist_ok=True)
    writer = PackWriter(stage)
    writer.write_tensors("layer-00000.safetensors", encoded=tensors, raw=dict(raw))
    writer.write_file("config.json", b"{}")
    source = Source(
        name="x", state_digest=None, files_digest=None, source=None, revision=None, license=None, note=None
    )
    return writer.finish(PackDescription("x", {"bits": 5}, source, None, 5.0, ()))


RAW = {"model.norm.weight": ("F32", (3,), bytes(range(12)))}


@pytest.mark.parametrize(
    "changes", [{}, {"rank": 0}, {"bits": 2}, {"bits": 8, "group": 64}, {"shape": (2, 5, 11)}, {"group": 3}]
)
def test_what_the_encoder_believes_is_what_decoders_give(tmp_path, changes):
    tensor = encoded(**changes)
    manifest, state = write(tmp_path / "p", [tensor], RAW)
    with open_source(tmp_path / "p") as source:
        assert reconstruct_state(source) == state
        assert source.published_state() == state and source.unclaimed() == ()
        found = source.load(tensor.name)
        assert torch.equal(found.view(torch.int16).view(tensor.codes.shape), tensor.decode().view(torch.int16))
        assert bytes(raw_bytes(source.load("model.norm.weight"))) == RAW["model.norm.weight"][2]
        assert source.bits_per_weight().compressed_on_disk == pytest.approx(
            manifest.bits_per_weight.compressed_on_disk, abs=1e-5
        )
    assert manifest.compressed_parameters == tensor.codes.numel()
    assert {entry.name: entry.digest for entry in state.entries}["model.norm.weight"] == sha256_hex(
        bytes(range(12))
    )


def test_the_correction_is_what_is_added():
    tensor = encoded()
    plain = EncodedTensor(
        tensor.name,
        tensor.shape,
        5,
        8,
        tensor.codes,
        tensor.levels,
        torch.zeros_like(tensor.scales),
        tensor.overlay,
    )
    assert torch.equal(plain.decode(), tensor.overlay.decode().bfloat16())


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, [encoded()], RAW)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["STATE", "config.json", "layer-00000.safetensors", "manifest.json"]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_weight_too_large_for_bf16_is_refused(tmp_path):
    tensor = encoded()
    tensor.overlay.rows.fill_(1e30)
    tensor.overlay.cols.fill_(1e30)
    (tmp_path / "p").mkdir()
    with pytest.raises(ModelError, match=r"model\.layers\.0\.a\.weight: .*too large"):
        PackWriter(tmp_path / "p").write_tensors("x.safetensors", encoded=[tensor], raw={})


def test_parts_of_the_wrong_shape_are_refused():
    tensor = encoded()
    with pytest.raises(ModelError, match="scales has the shape"):
        replace(tensor, scales=tensor.scales[:, :1]).parts()


def test_a_name_that_a_stored_part_needs_is_refused(tmp_path):
    (tmp_path / "p").mkdir()
    raw = {"model.layers.0.a.weight.codes": ("U8", (1,), b"x")}
    with pytest.raises(ModelError, match="names of other tensors"):
        PackWriter(tmp_path / "p").write_tensors("x.safetensors", encoded=[encoded()], raw=raw)


@pytest.mark.parametrize("changes", [{}, {"rank": 0, "bits": 3}])
def test_a_decoder_in_plain_fractions_agrees(changes):
    """It shares no code with ours."""
    tensor = encoded(**changes)
    forms = {"U8": np.uint8, "I8": np.int8, "F16": np.float16, "BF16": np.uint16}
    parts = {
        name.rsplit(".", 1)[1].removeprefix("overlay_"): np.frombuffer(data, forms[dtype]).reshape(shape)
        for name, (dtype, shape, data) in tensor.parts().items()
    }
    stored = oracle.Stored(shape=tensor.shape, bits=tensor.bits, group=tensor.group, **parts)
    found = tensor.decode().view(torch.int16).flatten().tolist()
    assert [pattern & 0xFFFF for pattern in found] == oracle.decode_exact(stored)
