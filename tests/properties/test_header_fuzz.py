"""Bytes nobody vouches for, in every parser of a pack's headers: an answer or one of our errors, in time."""

import json
import shutil
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ucaudit.core import tensorfile
from ucaudit.core.errors import InputError, UnavailableError
from ucaudit.interop.receipts import compare_receipt, read_receipt
from ucaudit.packs.codecs import open_source
from ucaudit.packs.codecs.gguf_header import read_gguf_header
from ucaudit.packs.codecs.gguf_model import GgufModel
from ucaudit.packs.opened import open_pack
from ucaudit.packs.vendor import read_vendor_pack, registry_claims

VECTORS = Path(__file__).parents[2] / "fixtures/vectors"
PACKS = sorted(path.parent for path in VECTORS.glob("*/*/expect.json"))[::4]
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECONDS = 2.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=8,
)


@contextmanager
def bounded():
    began = time.process_time()
    try:
        yield
    except (InputError, UnavailableError) as error:
        assert str(error) and "\n" not in str(error)
    assert time.process_time() - began < SECONDS


@FEW
@given(data=st.data())
def test_a_damaged_gguf(tmp_path, data):
    good = bytearray((VECTORS / "gguf/qwen2.gguf").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 2200))
        good[place : place + 8] = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]).map(
                    lambda value: struct.pack("<Q", value)
                ),
            )
        )
    path = tmp_path / "x.gguf"
    path.write_bytes(good)
    with bounded():
        open_source(path).close()


@FEW
@given(body=st.binary(max_size=400), tensors=st.integers(0, 2**64 - 1), pairs=st.integers(0, 2**64 - 1))
def test_any_bytes_after_a_gguf_magic(tmp_path, body, tensors, pairs):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors % (1 << 20) or tensors, pairs % 7 or pairs) + body)
    with path.open("rb") as handle, bounded():
        GgufModel(read_gguf_header(handle, subject="x"), "x")


KIND = st.sampled_from([*range(13), 2**31])
ENTRY = st.tuples(st.sampled_from(["general.architecture", "general.alignment", "llama.block_count", "k"]), KIND)


@FEW
@given(entries=st.lists(ENTRY, max_size=5), value=st.binary(max_size=40), count=st.integers(0, 2**64 - 1))
def test_metadata_of_every_kind(tmp_path, entries, value, count):
    body = b""
    for key, kind in entries:
        body += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind)
        body += struct.pack("<IQ", 8, count) if kind == 9 else value
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries)) + body + bytes(64))
    with path.open("rb") as handle, bounded():
        GgufModel(read_gguf_header(handle, subject="x"), "x")


@FEW
@given(data=st.data())
def test_a_damaged_safetensors_header(tmp_path, data):
    pack = data.draw(st.sampled_from(PACKS))
    work = tmp_path / "pack"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pack, work)
    good = bytearray((work / "model.safetensors").read_bytes())
    (length,) = struct.unpack_from("<Q", good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 7 + length))
        good[place : place + 1] = data.draw(st.binary(min_size=0, max_size=3))
    (work / "model.safetensors").write_bytes(good)
    with bounded():
        open_source(work).close()
    with (work / "model.safetensors").open("rb") as handle, bounded():
        tensorfile.read_header(handle, subject="x")


SETTINGS = ["bits", "group_size", "checkpoint_format", "weight_block_size", "config_groups", "quant_method",
            "version", "sparsity_config", "dynamic", "format", "transform_config"]  # fmt: skip


@FEW
@given(data=st.data())
def test_any_settings(tmp_path, data):
    pack = data.draw(st.sampled_from(PACKS))
    work = tmp_path / "pack"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pack, work)
    config = json.loads((work / "config.json").read_text())
    for key in data.draw(st.lists(st.sampled_from(SETTINGS), min_size=1, max_size=3)):
        config["quantization_config"][key] = data.draw(JSON)
    groups = config["quantization_config"].get("config_groups")
    if isinstance(groups, dict) and data.draw(st.booleans()):
        for group in groups.values():
            if isinstance(group, dict) and isinstance(group.get("weights"), dict):
                group["weights"][data.draw(st.sampled_from(["strategy", "group_size", "num_bits"]))] = data.draw(
                    JSON
                )
    if data.draw(st.integers(0, 5)) == 0:
        config["quantization_config"] = data.draw(JSON)
    (work / "config.json").write_text(json.dumps(config))
    with bounded(), open_source(work) as source:
        source.bits_per_weight()


VENDOR_KEYS = st.sampled_from(["n_layers", "aux_file", "bpw", "base_model_hf_id", "uc_pack_version"])


@FEW
@given(manifest=st.dictionaries(VENDOR_KEYS, JSON) | JSON, listing=JSON, description=JSON)
def test_any_vendor_manifest(tmp_path, manifest, listing, description):
    work = tmp_path / "pack"
    work.mkdir(exist_ok=True)
    (work / "layer_0.uc").write_bytes(b"x")
    for name, value in {
        "manifest.json": manifest,
        "SHA256_MANIFEST.json": listing,
        "ultracompress.json": {"files": description, "bpw": description},
    }.items():
        (work / name).write_text(json.dumps(value))
    with bounded(), open_pack(work) as pack:
        read_vendor_pack(pack, pack.file_manifest())


@FEW
@given(parts=st.fixed_dictionaries(dict.fromkeys(("tool", "pack", "host", "checks", "files"), JSON)), fields=JSON)
def test_any_receipt(tmp_path, parts, fields):
    work = tmp_path / "pack"
    work.mkdir(exist_ok=True)
    (work / "layer_0.uc").write_bytes(b"x")
    (work / "manifest.json").write_text("{}")
    whole = {"schema_version": "1.0", **parts}
    if isinstance(fields, dict):
        whole.update(pack=fields, host=fields, checks=fields, tool=fields, files=[{"name": "a", **fields}])
    (tmp_path / "r.json").write_text(json.dumps(whole))
    with bounded(), open_pack(work) as pack:
        files = pack.file_manifest()
        compare_receipt(read_receipt(tmp_path / "r.json"), pack, read_vendor_pack(pack, files), files)


@FEW
@given(value=JSON, record=st.dictionaries(st.sampled_from(["model", "hf", "ppl_ratio", "seq_len"]), JSON))
def test_any_registry(tmp_path, value, record):
    for document in (value, {"verified_records": [value, record], "methodology_summary": value}):
        (tmp_path / "b.json").write_text(json.dumps(document))
        with bounded():
            registry_claims(tmp_path / "b.json", {"x"})


def test_a_tensor_of_ten_gigabytes_in_a_file_of_one_kilobyte(tmp_path):
    size = 10 * 2**30
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "config.json").write_text("{}")
    (tmp_path / "p" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(900))
    entry = struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, size // 4, 0, 0)
    (tmp_path / "x.gguf").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
        + struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"other" + entry + bytes(900)
    )  # fmt: skip
    for path in (tmp_path / "p", tmp_path / "x.gguf"):
        began = time.process_time()
        with pytest.raises(InputError, match="truncated: tensor 'w'"):
            open_source(path)
        assert time.process_time() - began < 0.5
