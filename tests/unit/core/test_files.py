"""Atomic writing: the whole file or none."""

import os

import pytest

from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, OutputError
from ucaudit.core.files import (
    atomic_open,
    is_temporary,
    read_limited,
    remove_leftovers,
    require_writable_directory,
    write_bytes,
)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_open(path) as handle:
        handle.write(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_private_mode(tmp_path):
    write_bytes(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_unwritable_outputs(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="does not exist"):
        write_bytes(tmp_path / "absent" / "file", b"")
    with pytest.raises(OutputError, match="not a directory"):
        write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(OutputError):
        require_writable_directory(tmp_path / "file")


def test_reading_has_limits(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_limited(tmp_path / "file", 5) == b"12345"
    with pytest.raises(MalformedRecordError, match="larger than the 4"):
        read_limited(tmp_path / "file", 4)
    with pytest.raises(NotFoundError):
        read_limited(tmp_path / "absent", 1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="regular"):
        read_limited(tmp_path / "fifo", 1)


def test_leftovers(tmp_path):
    (tmp_path / ".ucaudit-tmp-00-x").write_bytes(b"")
    (tmp_path / "kept").write_bytes(b"")
    assert is_temporary(".ucaudit-tmp-00-x")
    assert remove_leftovers(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
