"""The ucq decoder against an independent one, and packs that lie."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import ucq_oracle as oracle

from ucaudit.core import tensorfile
from ucaudit.core.errors import (
    DeviceUnavailableError,
    InputError,
    MalformedPackError,
    UcauditError,
    UnsafePathError,
    UnsupportedSchemaError,
)
from ucaudit.packs.codecs import compiled, open_source, ucq, ucq_fast, ucq_math
from ucaudit.packs.state import reconstruct_state

NAME = "model.layers.0.mlp.up_proj.weight"
VECTORS = json.loads((Path(oracle.__file__).parent / "vectors.json").read_text())


def decode(path: Path, name: str = NAME, **options) -> bytes:
    """By both decoders, whose bytes and complaints must be the same."""
    with open_source(path) as source:
        plain = outcome(lambda: b"".join(source.stream(name, **options)))
        with mock.patch.object(ucq, "WORTHWHILE", 0), mock.patch.object(compiled, "serves", lambda *_: True):
            fast = outcome(lambda: b"".join(source.stream(name, **options)))
    assert str(fast) == str(plain)
    if isinstance(plain, Exception):
        raise plain
    return plain


def outcome(work):
    try:
        return work()
    except UcauditError as error:
        return error


# --- the same bits as a decoder that shares no code -------------------------------------------------------
def test_the_published_vectors_are_those_of_the_exact_oracle():
    assert oracle.as_json() == (Path(oracle.__file__).parent / "vectors.json").read_text()
    assert len(VECTORS["vectors"]) == len(oracle.cases())


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_vector(tmp_path, vector, chunk_bytes):
    stored = oracle.cases()[vector["name"]]
    oracle.write_pack(tmp_path, {NAME: stored})
    assert decode(tmp_path, chunk_bytes=chunk_bytes).hex() == vector["bf16"]
    assert oracle.decode_numpy(stored).astype("<u2").tobytes().hex() == vector["bf16"]


def test_vectors_cover_what_they_should():
    def words(name):
        return set(np.array(oracle.decode_exact(oracle.cases()[name])).tolist())

    assert {0x8000, 0x0000} <= words("signs-of-zero")
    assert {0x8000, 0x0000} <= words("signs-of-zero-overlay")
    assert any(0 < word & 0x7FFF < 0x80 for word in words("subnormal-result"))
    assert words("cancellation") == {0x4158}  # a contracted decoder gives 0x4155


def test_a_compiled_decoder_that_gives_other_bytes_is_not_used(tmp_path, monkeypatch):
    stored = oracle.random_stored(5, (300, 96), group=32, rank=4)
    oracle.write_pack(tmp_path, {NAME: stored})
    expected = oracle.decode_numpy(stored).astype("<u2").tobytes()
    monkeypatch.setattr(ucq, "WORTHWHILE", 0)
    used = []

    def wrong(rows):
        used.append(len(rows.codes))
        return ucq_math.decode_rows(rows).neg().view(torch.int16).numpy()

    for decode, calls in ((ucq_fast.decode_compiled, None), (wrong, [64])):
        monkeypatch.setattr(compiled, "_agreed", {})
        monkeypatch.setattr(ucq_fast, "decode_compiled", decode)
        with open_source(tmp_path) as source:
            assert b"".join(source.stream(NAME)) == expected
            assert b"".join(source.stream(NAME)) == expected
        assert calls is None or used == calls
        assert list(compiled._agreed.values()) == [decode is not wrong]


def test_without_numba_the_plain_decoder_serves(tmp_path, monkeypatch):
    stored = oracle.random_stored(5, (30, 96), group=32, rank=4)
    oracle.write_pack(tmp_path, {NAME: stored})
    monkeypatch.setattr(ucq, "WORTHWHILE", 0)
    monkeypatch.setitem(sys.modules, "ucaudit.packs.codecs.ucq_fast", None)
    monkeypatch.delattr("ucaudit.packs.codecs.ucq_fast")
    with open_source(tmp_path) as source:
        assert b"".join(source.stream(NAME)) == oracle.decode_numpy(stored).astype("<u2").tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_do_not_depend_on_threads_or_chunks(tmp_path, threads):
    stored = oracle.random_stored(5, (300, 1500), group=64, rank=16, zeros=True, bits=5)
    oracle.write_pack(tmp_path, {NAME: stored})
    expected = oracle.decode_numpy(stored).astype("<u2").tobytes()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for chunk_bytes in (1500 * 2, 100_001, 1 << 24):
            assert decode(tmp_path, chunk_bytes=chunk_bytes) == expected
    finally:
        torch.set_num_threads(before)


def test_a_hosts_precision_settings_do_not_matter(tmp_path):
    stored = oracle.random_stored(6, (40, 96), group=32, rank=1040)
    stored.scales[0] = 0
    stored.rows[0] = 0x0010  # with no main part beside it, a subnormal factor makes subnormal weights
    assert any(0 < word & 0x7FFF < 0x80 for word in oracle.decode_numpy(stored)[0].tolist())
    oracle.write_pack(tmp_path, {NAME: stored})
    decode(tmp_path)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = decode(tmp_path)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)
    assert found == oracle.decode_numpy(stored).astype("<u2").tobytes()


def test_the_largest_rank_is_exact_at_its_bound(tmp_path):
    stored = oracle.random_stored(7, (2, 3), group=4, rank=1040)
    stored = replace(stored, u=np.full_like(stored.u, 127), v=np.full_like(stored.v, -127))
    oracle.write_pack(tmp_path, {NAME: stored})
    assert decode(tmp_path).hex() == np.array(oracle.decode_exact(stored), dtype="<u2").tobytes().hex()


# --- the source as a whole --------------------------------------------------------------------------------
@pytest.fixture
def pack(tmp_path):
    compressed = {
        NAME: oracle.random_stored(1, (12, 20), rank=2),
        "model.layers.1.self_attn.q_proj.weight": oracle.random_stored(2, (8, 24), bits=4),
        "model.embed_tokens.weight": oracle.random_stored(3, (16, 20), group=5, zeros=True),
    }
    raw = {
        "model.norm.weight": ("F32", (20,), np.arange(20, dtype="<f4").tobytes()),
        "scalar": ("I64", (), (7).to_bytes(8, "little")),
        "empty": ("F16", (0, 3), b""),
    }
    manifest = oracle.write_pack(
        tmp_path / "p", compressed, raw, ties=[["lm_head.weight", "model.embed_tokens.weight"]]
    )
    return tmp_path / "p", manifest


def test_a_whole_pack(pack):
    path, manifest = pack
    with open_source(path) as source:
        assert [spec.name for spec in source.specs] == sorted(claim["name"] for claim in manifest["tensors"])
        assert source.ties == (("lm_head.weight", "model.embed_tokens.weight"),)
        assert (source.codec, source.codec_version, source.arithmetic_profile) == ("ucq", 1, "ucq-f32-bf16/1")
        assert source.carried_files() == ["config.json"] and source.config()["model_type"] == "llama"
        assert source.open_carried("config.json").read() == (path / "config.json").read_bytes()
        state = reconstruct_state(source)
        assert state == source.published_state() and state.digest == manifest["stateDigest"]
        loaded = source.load("model.norm.weight")
        assert loaded.dtype == torch.float32 and loaded.tolist() == list(range(20))
        assert source.load("scalar").item() == 7 and source.load("empty").shape == (0, 3)
        weight = source.load(NAME)
        assert weight.dtype == torch.bfloat16 and weight.shape == (12, 20)
        by_name = {entry.name: entry.digest for entry in state.entries}
        assert hashlib.sha256(weight.view(torch.int16).numpy().tobytes()).hexdigest() == by_name[NAME]
        assert source.unclaimed() == () and source.contradicted_claims(source.pack.file_manifest()) == []
        bits = source.bits_per_weight()
        assert bits.compressed_on_disk == pytest.approx(manifest["bitsPerWeight"]["compressedOnDisk"])
        with pytest.raises(InputError, match="no tensor"):
            source.load("lm_head.weight")
        for path_ in ("layer-00000.safetensors", "STATE", "../x"):
            with pytest.raises(InputError):
                source.open_carried(path_)


def test_unclaimed_files_are_flagged_and_changed_ones_named(pack):
    path, _ = pack
    (path / "config.json").write_bytes((path / "config.json").read_bytes().replace(b"true", b"nope"))
    (path / ".hidden").write_bytes(b"x")
    with open_source(path) as source:
        assert source.unclaimed() == (".hidden",)
        (sentence,) = source.contradicted_claims(source.pack.file_manifest())
        assert sentence.startswith("config.json: the manifest claims sha-256 ")


def test_one_flipped_bit_drifts_exactly_its_tensor(pack):
    path, _ = pack
    file = path / "layer-00000.safetensors"
    with file.open("rb") as handle:
        place = tensorfile.read_header(handle, subject="x").tensors[f"{NAME}.codes"]
    data = bytearray(file.read_bytes())
    data[place.begin] ^= 1
    file.write_bytes(data)
    with open_source(path) as source:
        (sentence,) = reconstruct_state(source).drift_from(source.published_state())
    assert sentence.startswith(f"{NAME}: expected ")


@pytest.mark.parametrize("device", ["mps", "cuda:99", "meta", "cpu:0", "CPU", ""])
def test_devices_without_ieee_arithmetic_or_absent_ones(pack, device):
    with pytest.raises(DeviceUnavailableError):
        decode(pack[0], device=device)


def test_a_file_swapped_while_open_is_noticed(pack):
    path, _ = pack
    with open_source(path) as source:
        stream = source.stream(NAME, chunk_bytes=1)
        next(stream)
        file = path / "layer-00000.safetensors"
        with file.open("r+b") as handle:
            handle.seek(-1, 2)
            handle.write(b"\x55")
        with pytest.raises(InputError, match="changed"):
            list(stream)


# --- values the format forbids ----------------------------------------------------------------------------
def poke(array, value):
    changed = array.copy()
    changed.flat[-1] = value
    return changed


FORBIDDEN = {
    "infinite scale": (lambda s: replace(s, scales=poke(s.scales, np.inf)), "scale"),
    "nan scale": (lambda s: replace(s, scales=poke(s.scales, np.nan)), "scale"),
    "negative scale": (lambda s: replace(s, scales=poke(s.scales, -1.0)), "scale"),
    "negative zero scale": (lambda s: replace(s, scales=poke(s.scales, -0.0)), "scale"),
    "padding": (lambda s: replace(s, codes=poke(s.codes, s.codes.flat[-1] | 0x80)), "padding"),
    "u": (lambda s: replace(s, u=poke(s.u, -128)), "overlay_u holds −128"),
    "v": (lambda s: replace(s, v=poke(s.v, -128)), "overlay_v holds −128"),
    "rows": (lambda s: replace(s, rows=poke(s.rows, 0x7F80)), "overlay_rows"),
    "cols": (lambda s: replace(s, cols=poke(s.cols, 0x7FC1)), "overlay_cols"),
    "overflow": (
        lambda s: replace(
            s, rows=np.full_like(s.rows, 0x7F7F), cols=np.full_like(s.cols, 0x7F7F), u=s.u | 1, v=s.v | 1
        ),
        "too large",
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_values_name_the_tensor(tmp_path, what):
    change, word = FORBIDDEN[what]
    stored = oracle.random_stored(3, (4, 13), rank=3)
    stored = replace(stored, u=np.clip(stored.u, -126, 126), v=np.clip(stored.v, -126, 126))
    oracle.write_pack(tmp_path, {NAME: change(stored)}, state=b"x")
    with pytest.raises(MalformedPackError, match=word) as caught:
        decode(tmp_path)
    assert NAME in str(caught.value) and "layer-00000.safetensors" in str(caught.value)


# --- manifests that lie -----------------------------------------------------------------------------------
def edit(**changes):
    return lambda manifest: manifest | changes


def edit_tensor(**changes):
    def change(manifest):
        manifest["tensors"][0] = manifest["tensors"][0] | changes
        return manifest

    return change


def edit_files(function):
    return lambda manifest: manifest | {"files": function(manifest["files"])}


def without(key):
    return lambda manifest: {name: value for name, value in manifest.items() if name != key}


LIES = {
    "later version": (edit(formatVersion=2), UnsupportedSchemaError, "version 2"),
    "version as text": (edit(formatVersion="1"), MalformedPackError, "formatVersion"),
    "version true": (edit(formatVersion=True), MalformedPackError, "formatVersion"),
    "other codec": (edit(codec="os"), MalformedPackError, "codec"),
    "other profile": (edit(arithmeticProfile="ucq-f32-bf16/2"), MalformedPackError, "arithmeticProfile"),
    "unknown member": (edit(hook="os:system"), MalformedPackError, "hook"),
    "missing member": (without("ties"), MalformedPackError, "ties"),
    "no tensors": (edit(tensors=[]), MalformedPackError, "tensors"),
    "bits": (edit_tensor(bits=9), MalformedPackError, "bits"),
    "bits as float": (edit_tensor(bits=5.0), MalformedPackError, "bits"),
    "group": (edit_tensor(group=0), MalformedPackError, "group"),
    "rank": (edit_tensor(rank=1041), MalformedPackError, "rank"),
    "dtype": (edit_tensor(dtype="F16"), MalformedPackError, "dtype"),
    "kind": (edit_tensor(kind="pickle"), MalformedPackError, "kind"),
    "axes": (edit_tensor(shape=[240]), MalformedPackError, "shape"),
    "axis zero": (edit_tensor(shape=[0, 20]), MalformedPackError, "shape"),
    "huge axis": (edit_tensor(shape=[2**40, 20]), MalformedPackError, "shape"),
    "other shape": (edit_tensor(shape=[20, 12]), MalformedPackError, "expected U8"),
    "more rows": (edit_tensor(shape=[13, 20]), MalformedPackError, "parameters"),
    "other file": (edit_tensor(file="other.safetensors"), MalformedPackError, "claimed"),
    "absent file": (edit_tensor(file="layer-9.safetensors"), MalformedPackError, "not claimed"),
    "no tensor file": (edit_tensor(file="config.json"), MalformedPackError, r"no \.safetensors"),
    "other name": (edit_tensor(name="y"), MalformedPackError, "claimed"),
    "control character": (edit_tensor(name="a\nb"), UnsafePathError, "U\\+000A"),
    "same name": (edit_tensor(name="model.norm.weight"), MalformedPackError, "twice"),
    "collision": (edit_tensor(name="model.norm.weight", kind="raw"), MalformedPackError, "."),
    "zeros": (edit_tensor(zeros=True), MalformedPackError, "zeros.* missing"),
    "rank zero": (edit_tensor(rank=0), MalformedPackError, "not claimed"),
    "parameters": (edit(parameters=1), MalformedPackError, "the shapes give"),
    "bits per weight": (
        edit(bitsPerWeight={"nominal": 5.0, "compressedOnDisk": 5.0, "wholeOnDisk": 5.0}),
        MalformedPackError,
        "bits per weight",
    ),
    "tie to nothing": (edit(ties=[["a", "b"]]), MalformedPackError, "tie"),
    "tie of a stored tensor": (edit(ties=[[NAME, "model.norm.weight"]]), MalformedPackError, "tie"),
    "missing file": (
        edit_files(lambda files: [*files, {"path": "x", "sha256": "0" * 64, "size": 1}]),
        MalformedPackError,
        "missing",
    ),
    "size": (edit_files(lambda files: [files[0] | {"size": 1}, *files[1:]]), MalformedPackError, "claims 1 bytes"),
    "file twice": (edit_files(lambda files: [files[0], *files]), MalformedPackError, "twice"),
    "itself": (
        edit_files(lambda files: [*files, {"path": "manifest.json", "sha256": "0" * 64, "size": 1}]),
        MalformedPackError,
        "itself",
    ),
    **{
        f"path {path}": (
            edit_files(lambda files, path=path: [*files, {"path": path, "sha256": "0" * 64, "size": 1}]),
            MalformedPackError,
            "leaves the pack",
        )
        for path in ("/etc/hostname", "../x", "a/../../x", "a//b", "./a")
    },
    "state not claimed": (
        edit_files(lambda files: [claim for claim in files if claim["path"] != "STATE"]),
        MalformedPackError,
        "STATE",
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lying_manifest(pack, what):
    path, manifest = pack
    change, error, message = LIES[what]
    (path / "manifest.json").write_text(json.dumps(change(manifest)))
    with pytest.raises(error, match=message) as caught:
        open_source(path)
    assert caught.value.exit_code == 3 and caught.value.subject


def test_a_state_that_is_not_the_pinned_one(pack):
    path, manifest = pack
    original = (path / "STATE").read_bytes()
    for text, message in (
        (original[:-1] + b"x\n", "claims state digest"),
        (original.replace(b"  scalar  scalar", b"  1  scalar"), "claims state digest"),
        (b"junk", "last line"),
    ):
        (path / "STATE").write_bytes(text)
        oracle.write_manifest(path, manifest)
        with open_source(path) as source, pytest.raises(MalformedPackError, match=message):
            source.published_state()
    (path / "STATE").write_bytes(original.splitlines(keepends=True)[0])
    manifest["stateDigest"] = hashlib.sha256((path / "STATE").read_bytes()).hexdigest()
    oracle.write_manifest(path, manifest)
    with open_source(path) as source, pytest.raises(MalformedPackError, match="not those of the manifest"):
        source.published_state()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_tensor_files(pack, keep):
    path, manifest = pack
    file = path / "layer-00001.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(MalformedPackError, match="the manifest claims"):
        open_source(path)
    oracle.write_manifest(path, manifest)
    with pytest.raises(UcauditError) as caught:
        open_source(path)
    assert type(caught.value) is MalformedPackError


def test_a_tensor_hidden_in_a_claimed_file(pack):
    path, manifest = pack
    tensorfile.write(path / "extra.safetensors", {"payload": ("U8", (3,), b"abc")})
    oracle.write_manifest(path, manifest)
    with pytest.raises(MalformedPackError, match="'payload' is not claimed"):
        open_source(path)
