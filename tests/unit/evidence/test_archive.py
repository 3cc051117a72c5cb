"""A bundle as one .zip: the same bytes every time, read by other programs, and read back in that form alone."""

import shutil
import zipfile

import pytest
from bundles import make_bundle, make_setting

from ucaudit.core.errors import InputError, MalformedRecordError, RefusedError
from ucaudit.evidence.archive import bundle_directory, is_archive, write_archive
from ucaudit.evidence.bundle import open_bundle


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def bundle(setting):
    return make_bundle(setting, setting.trust.parent / "bundle")


@pytest.fixture(scope="module")
def archive(bundle):
    out = bundle.parent / "made.zip"
    write_archive(open_bundle(bundle), out)
    return out


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_there_and_back(bundle, archive):
    with bundle_directory(archive) as place:
        assert contents(place) == contents(bundle)
    assert not place.exists()
    with bundle_directory(bundle) as place:
        assert place == bundle


def test_the_same_files_give_the_same_bytes(bundle, archive, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy, copy_function=shutil.copyfile)
    for path in copy.iterdir():
        path.chmod(0o600)
    write_archive(open_bundle(copy), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_other_programs_read_it(bundle, archive):
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None
        assert {item.filename: found.read(item) for item in found.infolist()} == contents(bundle)
        assert {item.external_attr >> 16 for item in found.infolist()} == {0o100644}
        assert {item.date_time for item in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_changed_bits_of_its_frame_are_refused(archive, tmp_path):
    """A header, and a sample of the directory. Contents have a checksum, digests and signatures."""
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as found:
        first, start = found.infolist()[0], found.start_dir
    header = range(30 + len(first.filename))
    changed = tmp_path / "changed.zip"
    for position in (*header, *range(start, len(data), 23), len(data) - 1):
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << position % 8
        changed.write_bytes(spoiled)
        with pytest.raises(InputError), bundle_directory(changed):
            pass


def test_a_changed_byte_of_a_file_is_seen(archive, tmp_path):
    data = bytearray(archive.read_bytes())
    data[100] ^= 1
    (tmp_path / "changed.zip").write_bytes(data)
    with (
        pytest.raises(MalformedRecordError, match="checksum"),
        bundle_directory(tmp_path / "changed.zip"),
    ):
        pass


def test_nothing_is_left_behind(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(MalformedRecordError), bundle_directory(tmp_path / "cut.zip"):
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x00" * 100])
def test_what_is_no_archive(data, tmp_path):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError), bundle_directory(tmp_path / "a.zip"):
        pass


def test_a_name_that_zips_spell_in_several_ways(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "report-müller.pdf").write_bytes(b"")
    with pytest.raises(RefusedError, match="ascii"):
        write_archive(open_bundle(copy), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_directory_may_be_called_zip(bundle, tmp_path):
    named = tmp_path / "bundle.zip"
    shutil.copytree(bundle, named)
    assert not is_archive(named)
    with bundle_directory(named) as place:
        assert place == named
