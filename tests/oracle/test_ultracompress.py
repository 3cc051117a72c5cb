"""The vendor's own tool beside ours: the same fingerprint and receipt on good packs, stricter on its holes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import vendorpack

from ucaudit.core.errors import UcauditError
from ucaudit.interop.receipts import compare_receipt, read_receipt
from ucaudit.packs.opened import open_pack
from ucaudit.packs.vendor import read_vendor_pack

pytestmark = pytest.mark.oracle

PACKS: dict[str, dict] = {
    "plain": {},
    "without aux": {"manifest": {"schema": 3, "n_layers": 2, "bpw": 5}},
    "byte-order mark": {"files": {"manifest.json": b"\xef\xbb\xbf" + json.dumps(vendorpack.MANIFEST).encode()}},
    "many layers": {
        "manifest": {**vendorpack.MANIFEST, "n_layers": 12},
        "files": {f"layer_{index:03d}.uc": bytes([index]) * (index + 1) for index in range(12)},
    },
    "digest list": {"files": {"SHA256_MANIFEST.json": b"{}", "README.md": b"x"}},
}
HOLES: dict[str, dict] = {
    "text for a number": {"manifest": {**vendorpack.MANIFEST, "n_layers": "2"}},
    "auxiliary file missing": {"files": {"aux.uc": None}},
    "a file outside the pack": {"manifest": {**vendorpack.MANIFEST, "aux_file": "/etc/hostname"}},
}


@pytest.fixture(scope="module")
def uc(oracle_env) -> Path:  # type: ignore[no-untyped-def]
    return Path(oracle_env("ultracompress", ["ultracompress==0.6.27"])) / "bin" / "uc"


def ours(path: Path):  # type: ignore[no-untyped-def]
    pack = open_pack(path)
    files = pack.file_manifest()
    return pack, read_vendor_pack(pack, files), files


@pytest.mark.parametrize("name", PACKS)
def test_the_same_fingerprint_and_receipt(uc: Path, tmp_path: Path, name: str) -> None:
    path = vendorpack.write(tmp_path / "p", **PACKS[name])
    pack, vendor, files = ours(path)
    said = subprocess.run([uc, "verify", path], capture_output=True, text=True, check=True).stdout
    assert vendor.fingerprint in re.findall(r"^ +([0-9a-f]{64})$", said, re.MULTILINE)
    assert "STRUCTURE OK" in said and not vendor.contradictions
    subprocess.run([uc, "audit", "--output", tmp_path / "r.json", path], capture_output=True, check=True)
    rows = compare_receipt(read_receipt(tmp_path / "r.json"), pack, vendor, files)
    assert [row for row in rows if row.answer == "contradicts"] == []
    assert sum(row.answer == "matches" for row in rows) > 12


@pytest.mark.parametrize("name", HOLES)
def test_stricter_on_the_holes(uc: Path, tmp_path: Path, name: str) -> None:
    path = vendorpack.write(tmp_path / "p", **HOLES[name])
    said = subprocess.run([uc, "verify", path], capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "STRUCTURE OK" in said.stdout
    try:
        assert ours(path)[1].contradictions
    except UcauditError as error:
        assert error.exit_code == 3


def test_a_changed_tokenizer_is_seen_here(uc: Path, tmp_path: Path) -> None:
    path = vendorpack.write(tmp_path / "p", files={"tokenizer.json": b"{}"})
    before = subprocess.run([uc, "verify", path], capture_output=True, text=True, check=True).stdout
    first = ours(path)
    (path / "tokenizer.json").write_bytes(b"[]")
    after = subprocess.run([uc, "verify", path], capture_output=True, text=True, check=True).stdout
    assert before == after
    assert "tokenizer.json" in first[1].outside and ours(path)[2].digest != first[2].digest
