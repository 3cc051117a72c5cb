"""The two text manifests, and names that must not get into them."""

import hashlib
import subprocess

import pytest

from ucaudit.core.digest import FileEntry, FileManifest, StateEntry, StateManifest, check_name, sha256_file
from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, UnsafePathError

A, B = "a" * 64, "b" * 64


def test_pack_manifest_is_what_sha256sum_checks(tmp_path):
    files = {"config.json": b"{}", "sub/weights.bin": b"\0\1", ".hidden": b"x", "with space": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    manifest = FileManifest.build(FileEntry(name, sha256_file(tmp_path / name)) for name in files)
    done = subprocess.run(
        ["sha256sum", "-c", "-"], input=manifest.to_bytes(), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert manifest.digest == hashlib.sha256(manifest.to_bytes()).hexdigest()
    assert FileManifest.parse(manifest.to_bytes()) == manifest


def test_names_are_bound_not_only_contents():
    one = FileManifest.build([FileEntry("a", A), FileEntry("b", B)])
    swapped = FileManifest.build([FileEntry("a", B), FileEntry("b", A)])
    assert one.digest != swapped.digest


def test_sorting_is_bytewise_not_by_locale():
    manifest = FileManifest.build([FileEntry(name, A) for name in ("é", "z", "Z", "a")])
    assert [entry.path for entry in manifest.entries] == ["Z", "a", "z", "é"]


def test_state_lines():
    state = StateManifest.build([StateEntry("w", "BF16", (576, 1536), A), StateEntry("s", "F32", (), B)])
    assert state.to_bytes() == f"{B}  F32  scalar  s\n{A}  BF16  576x1536  w\n".encode()
    assert StateManifest.parse(state.to_bytes()) == state
    assert state.parameters == 576 * 1536 + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{A}  a",  # no line end
        f"{A} a\n",  # one space
        f"{A.upper()}  a\n",
        f"{A}  b\n{A}  a\n",  # not sorted
        f"{A}  a\n{B}  a\n",  # twice
        f"{A}  \n",
        f"{A}  a\n\n",
    ],
)
def test_malformed_pack_manifests(text):
    with pytest.raises(InputError):
        FileManifest.parse(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  BF16  2x2\n",
        f"{A}  bf16  2x2  w\n",
        f"{A}  BF16  2X2  w\n",
        f"{A}  BF16  02x2  w\n",
        f"{A}  BF16    w\n",
        f"{A[:-1]}  BF16  2x2  w\n",
    ],
)
def test_malformed_states(text):
    with pytest.raises(MalformedRecordError):
        StateManifest.parse(text.encode())


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\\b", "a\x00", "a\x7f", "a\u202eb", "a\u2028b", "\ud800", "x" * 5000]
)
def test_names_that_can_be_read_in_two_ways(name):
    with pytest.raises(UnsafePathError) as caught:
        check_name(name, subject="test")
    assert "rename it" in caught.value.hint and str(caught.value).isprintable()


def test_drift_names_each_tensor():
    old = StateManifest.build([StateEntry("a", "BF16", (2,), A), StateEntry("b", "BF16", (2,), A)])
    new = StateManifest.build([StateEntry("a", "BF16", (2,), B), StateEntry("c", "BF16", (2,), A)])
    lines = new.drift_from(old)
    assert len(lines) == 3
    assert any(line.startswith("a: expected aaaa") for line in lines)
    assert "b: missing" in lines
    assert old.drift_from(old) == []
    reshaped = StateManifest.build([StateEntry("a", "F16", (2,), A), StateEntry("b", "BF16", (2,), A)])
    assert reshaped.drift_from(old) == ["a: expected BF16 2, found F16 2"]


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(NotFoundError):
        sha256_file(tmp_path / "absent")
    with pytest.raises(InputError):
        sha256_file(tmp_path)
