"""Opening packs: every file listed, nothing outside ever read, nothing that runs code."""

import errno
import hashlib
import io
import os
import pickle
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from ucaudit.core.errors import InputError, MalformedPackError, NotFoundError, UnsafeFileError, UnsafePathError
from ucaudit.packs import opened
from ucaudit.packs.opened import open_pack


def make(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_every_file_is_listed_and_hashed(tmp_path):
    make(tmp_path / "p", **{"b.txt": b"1", "a__x.txt": b"22", ".hidden": b"", ".git__config": b"3"})
    with open_pack(tmp_path / "p") as pack:
        assert [(file.path, file.size) for file in pack.files] == [
            (".git/config", 1),
            (".hidden", 0),
            ("a/x.txt", 2),
            ("b.txt", 1),
        ]
        assert pack.name == "p" and pack.total_bytes == 4 and not pack.single_file
        seen = []
        manifest = pack.file_manifest(progress=seen.append, threads=3)
        assert sum(seen) == 4
        assert manifest.by_path()["a/x.txt"] == hashlib.sha256(b"22").hexdigest()
    (tmp_path / "sums").write_bytes(manifest.to_bytes())
    subprocess.run(["sha256sum", "--quiet", "-c", tmp_path / "sums"], cwd=tmp_path / "p", check=True)


def test_exclusions_are_top_level_and_recorded(tmp_path):
    make(tmp_path, **{"a": b"1", ".git__x": b"2", "sub__.git__x": b"3", "notes.txt": b"4"})
    pack = open_pack(tmp_path, excludes=[".git/", "notes.txt"])
    assert [file.path for file in pack.files] == ["a", "sub/.git/x"]
    assert pack.excludes == (".git/", "notes.txt")
    for bad in ("", "../x", "/etc/", "a//b"):
        with pytest.raises(InputError):
            open_pack(tmp_path, excludes=[bad])


def test_a_link_given_on_the_command_line_is_followed_one_inside_is_not(tmp_path):
    make(tmp_path / "real", a=b"1")
    (tmp_path / "link").symlink_to("real")
    assert [file.path for file in open_pack(tmp_path / "link").files] == ["a"]
    for target in ("a", "/etc/hostname", "../other", "missing"):
        (tmp_path / "real" / "l").symlink_to(target)
        with pytest.raises(UnsafePathError, match="link"):
            open_pack(tmp_path / "real")
        (tmp_path / "real" / "l").unlink()
    (tmp_path / "real" / "d").symlink_to("/etc")
    with pytest.raises(UnsafePathError, match="link"):
        open_pack(tmp_path / "real")


BLOB = "0123456789abcdef0123456789abcdef01234567"


def cache(tmp_path: Path) -> tuple[Path, Path]:
    repository = tmp_path / "models--x--y"
    snapshot = repository / "snapshots" / "rev"
    make(repository / "blobs", **{BLOB: b"blob"})
    (snapshot / "sub").mkdir(parents=True)
    return repository, snapshot


def test_links_of_a_hugging_face_snapshot_into_its_own_blobs(tmp_path):
    _, snapshot = cache(tmp_path)
    (snapshot / "f").symlink_to(f"../../blobs/{BLOB}")
    (snapshot / "sub" / "g").symlink_to(f"../../../blobs/{BLOB}")
    with open_pack(snapshot) as pack:
        assert [file.path for file in pack.files] == ["f", "sub/g"]
        assert pack.read("sub/g") == b"blob"


@pytest.mark.parametrize(
    "target",
    [
        "../../blobs/../../../etc/passwd",
        "../../blobs/name",
        f"../../../blobs/{BLOB}",
        f"../../../other/blobs/{BLOB}",
        f"../../blobs/{BLOB}/x",
        "../../blobs/" + "f" * 40,
    ],
)
def test_every_other_link_of_a_snapshot_is_refused(tmp_path, target):
    _, snapshot = cache(tmp_path)
    (snapshot / "f").symlink_to(target)
    with pytest.raises(UnsafePathError):
        open_pack(snapshot)


def test_a_blob_that_is_itself_a_link_is_refused(tmp_path):
    repository, snapshot = cache(tmp_path)
    (repository / "blobs" / ("a" * 40)).symlink_to("/etc/hostname")
    (snapshot / "f").symlink_to("../../blobs/" + "a" * 40)
    with pytest.raises(UnsafePathError):
        open_pack(snapshot)
    (snapshot / "f").unlink()
    (snapshot / "f").symlink_to(f"../../blobs/{BLOB}")
    (repository / "blobs").rename(repository / "elsewhere")
    (repository / "blobs").symlink_to("elsewhere")
    with pytest.raises(UnsafePathError):
        open_pack(snapshot)


def test_special_files_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnsafePathError, match="regular"):
        open_pack(tmp_path)
    (tmp_path / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(UnsafePathError, match="regular"):
            open_pack(tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x1b[2J", "x\u202etxt", "tab\t"])
def test_names_that_read_in_two_ways_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UnsafePathError) as caught:
        open_pack(tmp_path)
    assert repr(name) in str(caught.value) and "rename it" in caught.value.hint


def test_a_name_that_is_not_unicode_is_refused(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102 - a name in bytes
    with pytest.raises(UnsafePathError, match=r"not valid unicode: '\\udcff'") as caught:
        open_pack(tmp_path)
    assert "rename it" in caught.value.hint


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"a")
    pack = open_pack(tmp_path)

    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(opened, "_open_below", refused)
    for look in (lambda: pack.open("a.txt"), lambda: open_pack(tmp_path)):
        with pytest.raises(InputError, match="Permission denied") as caught:
            look()
        assert not isinstance(caught.value, UnsafePathError)
        assert "permission to read it" in caught.value.hint


def test_missing_empty_and_wrong_kind(tmp_path):
    with pytest.raises(NotFoundError):
        open_pack(tmp_path / "missing")
    with pytest.raises(NotFoundError, match="no files"):
        open_pack(tmp_path)
    (tmp_path / "x.txt").write_bytes(b"1")
    with pytest.raises(InputError, match=r"directory or a \.gguf"):
        open_pack(tmp_path / "x.txt")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError):
        open_pack(tmp_path / "dangling")


def test_a_tree_too_deep(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"")
    with pytest.raises(UnsafePathError, match="deeper"):
        open_pack(tmp_path)


def torch_zip(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/pad", b"x" * 5000)
        archive.writestr(member, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".PT"])
def test_pickle_suffixes(tmp_path, suffix):
    make(tmp_path, **{f"sub__weights{suffix}": b"harmless"})
    with pytest.raises(UnsafeFileError, match="run code") as caught:
        open_pack(tmp_path)
    assert caught.value.subject.endswith(f"sub/weights{suffix}") and caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        *[pickle.dumps({"a": 1}, protocol=number) for number in (2, 3, 4, 5)],
        b"cos\nsystem\n(S'id'\ntR.",
        b"(cposix\nsystem\nS'id'\no.",
        torch_zip("archive/data.pkl"),
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "weights.dat", "README.md"])
def test_pickle_content_under_any_name(tmp_path, name, data):
    make(tmp_path, **{name: data})
    with pytest.raises(UnsafeFileError, match="pickle"):
        open_pack(tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", b"\x80\x02\0\0\0\0\0\0{" + b" " * 700),
        ("a.zip", torch_zip("archive/data.txt")),
        ("b.zip", b"PK\x03\x04" + b"broken"),
        ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"),
        ("README.md", b"contents\nof this\n"),
        ("cos.txt", b"cosine\nsine\n"),
    ],
)
def test_what_only_looks_like_a_pickle_is_let_through(tmp_path, name, data):
    make(tmp_path, **{name: data})
    assert len(open_pack(tmp_path).files) == 1


def test_a_file_replaced_or_changed_after_the_walk_is_refused(tmp_path):
    make(tmp_path / "p", a=b"1", b__c=b"2")
    pack = open_pack(tmp_path / "p")
    assert pack.read("a") == b"1"
    (tmp_path / "p" / "a").write_bytes(b"9")
    with pytest.raises(InputError, match="changed"):
        pack.open("a")
    (tmp_path / "p" / "a").unlink()
    with pytest.raises(InputError, match="removed"):
        pack.open("a")
    (tmp_path / "p" / "a").symlink_to("/etc/hostname")
    with pytest.raises(UnsafePathError):
        pack.open("a")
    shutil.move(tmp_path / "p" / "b", tmp_path / "moved")
    (tmp_path / "p" / "b").symlink_to(tmp_path / "moved")
    with pytest.raises(UnsafePathError):
        pack.open("b/c")


def test_only_listed_files_are_opened(tmp_path):
    make(tmp_path / "p", a=b"1")
    make(tmp_path, secret=b"2")
    pack = open_pack(tmp_path / "p")
    for path in ("../secret", "/etc/hostname", "b", ""):
        with pytest.raises(NotFoundError):
            pack.open(path)


def test_reading_has_a_limit_and_json_is_strict(tmp_path):
    make(tmp_path, **{"big.json": b" " * 100, "twice.json": b'{"a":1,"a":2}'})
    pack = open_pack(tmp_path)
    with pytest.raises(MalformedPackError, match="at most 10"):
        pack.read("big.json", limit=10)
    with pytest.raises(MalformedPackError, match="duplicate"):
        pack.read_json("twice.json")


def test_a_system_that_does_not_say_which_cores_are_usable(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    (tmp_path / "a.json").write_bytes(b"{}")
    assert len(open_pack(tmp_path).file_manifest().entries) == 1
