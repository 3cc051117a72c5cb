"""A vendor's receipt, field by field; made with the vendor's own tool in ``tests/oracle``, by hand here."""

import json

import pytest
import vendorpack

from ucaudit.core.errors import MalformedRecordError
from ucaudit.interop.receipts import compare_receipt, read_receipt
from ucaudit.packs.opened import open_pack
from ucaudit.packs.vendor import read_vendor_pack


def opened(path):
    pack = open_pack(path)
    files = pack.file_manifest()
    return pack, read_vendor_pack(pack, files), files


def receipt_of(path):
    pack, vendor, files = opened(path)
    digests = files.by_path()
    return {
        "schema_version": "1.0",
        "tool": {"name": "ultracompress", "version": "0.6.27"},
        "audited_at_utc": "2026-11-28T00:00:00Z",
        "pack": {"path": "x", "manifest": vendor.manifest, "declared_layer_count": 2,
                 "observed_layer_file_count": 2, "bytes_on_disk": vendor.bytes_covered},
        "host": {"os": "Linux", "os_release": "6", "cpu_arch": "x86_64", "cpu_count": 2,
                 "host_fingerprint": "cb8a5621bdc1b48cb7f0d3ce9f4f3dbca8e2c23a0bce0656bd1005ba97864d7f"},
        "checks": {"manifest_present": True, "structure_ok": True, "declared_layer_count_matches": True,
                   "no_zero_byte_files": True},
        "files": [{"name": name, "bytes": pack.size(name), "sha256": digests[name]} for name in vendor.covered],
        "pack_fingerprint_sha256": vendor.fingerprint,
    }  # fmt: skip


def answers(receipt, path):
    return {row.field: row.answer for row in compare_receipt(receipt, *opened(path))}


def test_a_true_receipt(tmp_path):
    path = vendorpack.write(tmp_path / "p")
    found = answers(receipt_of(path), path)
    assert "contradicts" not in found.values()
    assert found["pack_fingerprint_sha256"] == found["file aux.uc sha256"] == "matches"
    assert found["host.host_fingerprint"] == "matches"
    assert found["audited_at_utc"] == found["pack.path"] == found["file config.json"] == "not covered"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.update(schema_version="2.0"), "schema_version"),
        (lambda r: r.update(pack_fingerprint_sha256="0" * 64), "the fingerprint of its own files"),
        (lambda r: r.update(pack_fingerprint_sha256=None), "pack_fingerprint_sha256"),
        (lambda r: r["pack"].update(bytes_on_disk=1), "pack.bytes_on_disk"),
        (lambda r: r["pack"].update(declared_layer_count="2"), "pack.declared_layer_count"),
        (lambda r: r["pack"].update(manifest={}), "pack.manifest"),
        (lambda r: r["checks"].update(structure_ok=False), "checks.structure_ok"),
        (lambda r: r["checks"].update(structure_ok=1), "checks.structure_ok"),
        (lambda r: r["host"].update(cpu_count=3), "host.host_fingerprint"),
        (lambda r: r["files"][0].update(bytes=9), "file aux.uc bytes"),
        (lambda r: r["files"].pop(0), "file aux.uc"),
        (lambda r: r["files"].append({"name": "x.uc", "sha256": "0"}), "file x.uc"),
    ],
)
def test_a_false_receipt(tmp_path, change, field):
    path = vendorpack.write(tmp_path / "p")
    receipt = receipt_of(path)
    change(receipt)
    assert answers(receipt, path)[field] == "contradicts"


def test_a_changed_pack(tmp_path):
    path = vendorpack.write(tmp_path / "p")
    receipt = receipt_of(path)
    (path / "layer_000.uc").write_bytes(b"")
    found = answers(receipt, path)
    for field in ("file layer_000.uc sha256", "checks.no_zero_byte_files", "pack_fingerprint_sha256"):
        assert found[field] == "contradicts"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("schema_version"),
        lambda r: r.update(pack=[]),
        lambda r: r.update(files={}),
        lambda r: r["files"].append({"bytes": 1}),
        lambda r: r["files"].append(dict(r["files"][0])),
    ],
)
def test_what_is_no_receipt(tmp_path, change):
    receipt = receipt_of(vendorpack.write(tmp_path / "p"))
    change(receipt)
    (tmp_path / "r.json").write_text(json.dumps(receipt))
    with pytest.raises(MalformedRecordError):
        read_receipt(tmp_path / "r.json")
