"""What is kept of files from run to run, and when it is not believed."""

import json
import os
import time

import pytest

from ucaudit.packs.memo import SETTLED_NS, DigestCache, DigestMemo
from ucaudit.packs.opened import OpenedPack, open_pack

OLD = 1_600_000_000 * 10**9


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Two files, seen as having settled long ago (a change time cannot be set, so the clock is)."""
    place = tmp_path / "pack"
    (place / "sub").mkdir(parents=True)
    (place / "a.json").write_bytes(b"{}")
    (place / "sub" / "w.safetensors").write_bytes(b"weights")
    now = time.time_ns
    monkeypatch.setattr("ucaudit.packs.memo.time.time_ns", lambda: now() + 10 * SETTLED_NS)
    return place


@pytest.fixture
def opens(monkeypatch):
    """The paths that were opened."""
    seen = []
    real = OpenedPack.open
    monkeypatch.setattr(OpenedPack, "open", lambda self, path: (seen.append(path), real(self, path))[1])
    return seen


def digest(pack, memo):
    return open_pack(pack, memo=memo).file_manifest().digest


def test_an_unchanged_file_is_not_opened_again(pack, tmp_path, opens):
    place = tmp_path / "cache"
    first = DigestCache(place)
    expected = digest(pack, first)
    first.save()
    assert opens and first.problem is None and place.stat().st_mode & 0o777 == 0o600
    opens.clear()
    second = DigestCache(place)
    assert digest(pack, second) == expected == open_pack(pack).file_manifest().digest
    assert second.hits == 2
    assert sorted(set(opens)) == ["a.json", "sub/w.safetensors"]  # by the run without a cache only
    opens.clear()
    assert digest(pack, DigestCache(place)) == expected and opens == []


@pytest.mark.parametrize("how", ["content", "same size and time", "other file of the same time"])
def test_a_change_is_seen(pack, tmp_path, how):
    place, file = tmp_path / "cache", pack / "a.json"
    os.utime(file, ns=(OLD, OLD))
    cache = DigestCache(place)
    before = digest(pack, cache)
    cache.save()
    if how == "content":
        file.write_bytes(b"[1]")
    elif how == "same size and time":
        file.write_bytes(b"[]")
        os.utime(file, ns=(OLD, OLD))
    else:
        other = tmp_path / "other"
        other.write_bytes(b"[]")
        os.utime(other, ns=(OLD, OLD))
        other.replace(file)
    again = DigestCache(place)
    assert digest(pack, again) != before
    assert digest(pack, again) == open_pack(pack).file_manifest().digest


def test_what_was_written_a_moment_ago_is_not_kept(tmp_path):
    place = tmp_path / "pack"
    place.mkdir()
    (place / "a.json").write_bytes(b"{}")
    cache = DigestCache(tmp_path / "cache")
    digest(place, cache)
    assert cache.learned() == {}
    cache.save()
    assert not (tmp_path / "cache").exists()


def test_a_renamed_file_is_known_and_its_new_name_is_judged(pack, tmp_path):
    cache = DigestCache(tmp_path / "cache")
    digest(pack, cache)
    cache.save()
    (pack / "a.json").rename(pack / "b.json")  # its change time changes: read again
    assert len(open_pack(pack, memo=DigestCache(tmp_path / "cache")).file_manifest().entries) == 2
    (pack / "b.json").rename(pack / "b.pkl")
    with pytest.raises(Exception, match=r"\.pkl file can run code"):
        open_pack(pack, memo=DigestCache(tmp_path / "cache"))


def test_a_pickle_under_a_known_identity_of_another_kind_is_still_found(tmp_path):
    """A container's head may look like a pickle's; a plain file's may not, whatever was found before."""
    memo = DigestMemo()
    memo.add_harmless((1, 2, 3, 4, 5), "container")
    assert memo.is_harmless((1, 2, 3, 4, 5), "container")
    assert not memo.is_harmless((1, 2, 3, 4, 5), "plain")


BAD = {
    "empty": b"",
    "cut off": b'{"format": "ucaudit-gate-cache/1", "fil',
    "another format": b'{"format": "x", "files": {}}',
    "no files": b'{"format": "ucaudit-gate-cache/1"}',
    "a short identity": b'{"format": "ucaudit-gate-cache/1", "files": {"1 2 3": "' + b"0" * 64 + b' plain"}}',
    "no digest": b'{"format": "ucaudit-gate-cache/1", "files": {"1 2 3 4 5": "zz plain"}}',
    "another kind": b'{"format": "ucaudit-gate-cache/1", "files": {"1 2 3 4 5": "' + b"0" * 64 + b' x"}}',
    "deep": b'{"format": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_a_damaged_cache_starts_anew(pack, tmp_path, data):
    place = tmp_path / "cache"
    place.write_bytes(data)
    place.chmod(0o600)
    cache = DigestCache(place)
    assert "starts anew" in cache.problem
    assert digest(pack, cache) == open_pack(pack).file_manifest().digest
    cache.problem = None
    cache.save()
    assert cache.problem is None and len(json.loads(place.read_bytes())["files"]) == 2


@pytest.mark.parametrize("mode", [0o600, 0o666])
@pytest.mark.parametrize("data", [b"-----BEGIN PUBLIC KEY-----\n", b"\x00\xff", b"[]", b"{}"])
def test_another_file_is_not_taken_for_a_cache_and_not_replaced(pack, tmp_path, data, mode):
    place = tmp_path / "cache"
    place.write_bytes(data)
    place.chmod(mode)
    cache = DigestCache(place)
    assert "not a cache of ucaudit" in cache.problem
    digest(pack, cache)
    cache.save()
    assert "what lies there is left as it is" in cache.problem
    assert place.read_bytes() == data


def test_a_cache_that_others_may_write_is_not_read(pack, tmp_path):
    place = tmp_path / "cache"
    cache = DigestCache(place)
    digest(pack, cache)
    cache.save()
    place.chmod(0o666)
    again = DigestCache(place)
    assert "others may write to it" in again.problem
    digest(pack, again)
    assert again.hits == 0


def test_a_cache_that_cannot_be_read_or_written_costs_nothing_but_time(pack, tmp_path):
    place = tmp_path / "cache"
    place.mkdir()  # a directory in its place, which not even root can read as a file
    cache = DigestCache(place)
    assert cache.problem.startswith("not read")
    assert digest(pack, cache) == open_pack(pack).file_manifest().digest
    cache.save()
    assert cache.problem.startswith("not kept")
    vanished = DigestCache(tmp_path / "gone" / "cache")
    assert vanished.problem is None
    digest(pack, vanished)
    vanished.save()
    assert "the directory does not exist" in vanished.problem
