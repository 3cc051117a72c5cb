"""Vendor packs: what is read, what is listed as uncovered, and the holes that a pack may not slip through."""

import hashlib
import json

import pytest
import vendorpack

from ucaudit.core.errors import InputError, MalformedPackError, UnsafePathError
from ucaudit.packs.opened import open_pack
from ucaudit.packs.vendor import names_of, read_vendor_pack, registry_claims


def read(path):
    with open_pack(path) as pack:
        return read_vendor_pack(pack, pack.file_manifest())


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_a_well_formed_pack(tmp_path):
    found = read(vendorpack.write(tmp_path / "p"))
    lines = sorted(
        f"{name}:{sha((tmp_path / 'p' / name).read_bytes())}"
        for name in ("manifest.json", "layer_000.uc", "layer_001.uc", "aux.uc")
    )
    assert found.fingerprint == sha("\n".join(lines).encode())
    assert found.contradictions == () and found.outside == ("config.json",) and found.bytes_covered > 14
    assert found.claims["bpw"] == 5.0 and found.declared_layers == 2


def test_a_byte_order_mark_is_allowed(tmp_path):
    data = b"\xef\xbb\xbf" + json.dumps(vendorpack.MANIFEST).encode()
    assert read(vendorpack.write(tmp_path / "p", files={"manifest.json": data})).declared_layers == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"manifest": []}, MalformedPackError, "expected a json object"),
        ({"manifest": {"n_layers": "2"}}, MalformedPackError, "n_layers: expected int, found '2'"),
        ({"manifest": {"n_layers": True}}, MalformedPackError, "n_layers"),
        ({"manifest": {"aux_file": "/etc/hostname"}}, UnsafePathError, "not a path inside the pack"),
        ({"manifest": {"aux_file": "../other/aux.uc"}}, UnsafePathError, "not a path inside the pack"),
        ({"manifest": {"aux_file": 3}}, MalformedPackError, "aux_file"),
        ({"files": {"manifest.json": None}}, MalformedPackError, "manifest is missing"),
        ({"files": {"manifest.json": b"{"}}, MalformedPackError, "not json"),
        ({"files": {"SHA256_MANIFEST.json": b'{"a":1,"a":2}'}}, MalformedPackError, "duplicate"),
    ],
)
def test_malformed_packs(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read(vendorpack.write(tmp_path / "p", **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"files": {"aux.uc": None}}, "aux.uc: named as auxiliary file, but missing"),
        ({"files": {"layer_001.uc": None}}, "n_layers: the manifest says 2, there are 1 layer files"),
        ({"files": {"layer_000.uc": None, "layer_001.uc": None}}, "no layer_*.uc file"),
        ({"files": {"layer_000.uc": b""}}, "layer_000.uc: empty"),
    ],
)
def test_what_the_files_contradict(tmp_path, changes, sentence):
    assert sentence in read(vendorpack.write(tmp_path / "p", **changes)).contradictions


GOOD = sha(b"first")


@pytest.mark.parametrize(
    "listing",
    [
        {"layer_000.uc": GOOD, "config.json": sha(b"{}")},
        {"files": {"./layer_000.uc": GOOD, "config.json": {"sha256": sha(b"{}")}}},
        [{"name": "layer_000.uc", "sha256": GOOD}, {"path": "config.json", "hash": sha(b"{}")}],
        {"files": [{"file": "layer_000.uc", "sha256": GOOD}, {"filename": "config.json", "digest": sha(b"{}")}]},
    ],
)
def test_every_layout_of_the_digest_list(tmp_path, listing):
    good = read(vendorpack.write(tmp_path / "p", files={"SHA256_MANIFEST.json": json.dumps(listing).encode()}))
    assert good.contradictions == () and good.outside == ()
    text = json.dumps(listing).replace(GOOD, "0" * 64).encode()
    bad = read(vendorpack.write(tmp_path / "q", files={"SHA256_MANIFEST.json": text}))
    assert "SHA256_MANIFEST.json says sha-256 0000" in bad.contradictions[0]


def test_an_unknown_layout_is_said(tmp_path):
    found = read(vendorpack.write(tmp_path / "p", files={"SHA256_MANIFEST.json": b'{"version":1}'}))
    assert "layout is not known" in found.notes[0] and found.contradictions == ()


def test_the_description_is_held_against_the_files(tmp_path):
    files = {
        "layer_000.uc": {"sha256": GOOD, "size_bytes": 5},
        "layer_001.uc": {"sha256": sha(b"second"), "size_bytes": 7},
        "gone.uc": {"sha256": GOOD},
        "aux.uc": {},
    }
    description = json.dumps({"model_id": "x", "method": "uc", "files": files}).encode()
    found = read(vendorpack.write(tmp_path / "p", files={"ultracompress.json": description}))
    assert found.contradictions == (
        "layer_001.uc: ultracompress.json says 7 bytes, found 6",
        "gone.uc: in ultracompress.json, but not in the pack",
        "aux.uc: ultracompress.json gives no digest",
    )
    assert found.claims["method"] == "uc"


def test_published_claims(tmp_path):
    registry = {
        "methodology_summary": {"default_seq_len": 1024, "default_seed": 42, "default_n": 30},
        "verified_records": [
            {"model": "Qwen3-0.6B", "ppl_ratio": 1.0069, "hf": "v/qwen3-0.6b-uc"},
            {"model": "Other", "ppl_ratio": 1.1},
            {"model": "Qwen3-0.6B", "ppl_ratio": "1.0"},
            "text",
        ],
    }
    (tmp_path / "benchmarks.json").write_text(json.dumps(registry))
    with open_pack(vendorpack.write(tmp_path / "p")) as pack:
        names = names_of(pack, read_vendor_pack(pack, pack.file_manifest()))
    [claim] = registry_claims(tmp_path / "benchmarks.json", names)
    assert (claim["ppl_ratio"], claim["n"], claim["seq_len"], claim["seed"]) == (1.0069, 30, 1024, 42)
    assert registry_claims(tmp_path / "benchmarks.json", {"nobody"}) == []
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="verified_records"):
        registry_claims(tmp_path / "other.json", names)
