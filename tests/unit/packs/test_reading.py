"""A pack is opened and hashed once, beside other work; a change while it is read stops everything."""

import sys
import threading
import time

import pytest

from ucaudit.core.errors import InputError, NotFoundError, UnsafeFileError
from ucaudit.core.progress import SILENT
from ucaudit.packs import opened as opened_module
from ucaudit.packs.opened import OpenedPack, open_pack
from ucaudit.packs.reading import PackReading, begin_early


@pytest.fixture
def pack(tmp_path):
    place = tmp_path / "pack"
    (place / ".git").mkdir(parents=True)
    for number in range(5):
        (place / f"{number}.json").write_bytes(b"[%d]" % number)
    (place / ".git" / "config").write_bytes(b"x")
    return place


@pytest.fixture
def hashed(monkeypatch):
    """How often something was hashed."""
    seen = []
    real = opened_module.sha256_stream
    monkeypatch.setattr(opened_module, "sha256_stream", lambda *a, **how: (seen.append(1), real(*a, **how))[1])
    return seen


@pytest.mark.parametrize("begin", [True, False])
def test_every_file_is_hashed_once_whoever_asks(pack, hashed, begin):
    with PackReading(pack) as reading:
        if begin:
            reading.begin()
        whole = reading.manifest()
        assert reading.manifest() is whole
        part = reading.manifest((".git/",))
    assert len(hashed) == 6
    assert whole == open_pack(pack).file_manifest()
    assert part == open_pack(pack, excludes=(".git/",)).file_manifest()


def test_what_is_asked_for_may_be_other_than_what_was_begun(pack, hashed):
    with PackReading(pack) as reading:
        reading.begin((".git/",))
        assert len(reading.manifest().entries) == 6
    assert len(hashed) == 6


def test_what_was_begun_is_stopped_once_more_is_known(pack, hashed):
    """What was hashed until then is not hashed again, and what is left out is not waited for."""
    expected = open_pack(pack, excludes=(".git/",)).file_manifest()
    hashed.clear()
    started = threading.Event()

    class Slow:
        start = note = finish = staticmethod(lambda *_: None)

        def advance(self, _):
            started.set()
            time.sleep(0.05)

    with begin_early(pack, progress=Slow(), threads=1) as reading:
        assert started.wait(5)
        reading.begin()
        begun = reading._begun
        reading.begin((".git/",))
        assert begun.stop.is_set() and not begun.is_alive()
        assert reading.manifest((".git/",)) == expected
        assert reading._begun is None
        reading.begin((".git/",))
        assert reading._begun is None, "known already"
    assert len(hashed) < 6 + 5, "hashing all of both would be"


def test_an_early_start_leaves_errors_to_whoever_asks(pack, tmp_path):
    with begin_early(tmp_path / "no") as reading, pytest.raises(NotFoundError):
        reading.begin()
    (pack / ".git" / "a.pkl").write_bytes(b"x")
    with begin_early(pack) as reading:
        with pytest.raises(UnsafeFileError):
            reading.begin()
        reading.begin((".git/",))
        assert reading.manifest((".git/",)) == open_pack(pack, excludes=(".git/",)).file_manifest()


def test_errors_come_where_they_can_be_said(pack, tmp_path, monkeypatch):
    with pytest.raises(NotFoundError):
        PackReading(tmp_path / "no").begin()
    real = OpenedPack.check_unchanged

    def changed(self, path, handle):
        if path == "3.json":
            raise InputError("replaced or changed while it was being read", subject=path)
        real(self, path, handle)

    with PackReading(pack) as reading:
        opened = reading.opened()
        monkeypatch.setattr(OpenedPack, "check_unchanged", changed)
        reading.begin()
        with pytest.raises(InputError, match="while it was being read"):
            reading.manifest()
        assert opened is reading.opened()
    monkeypatch.undo()
    (pack / "a.pkl").write_bytes(b"x")
    with pytest.raises(UnsafeFileError), PackReading(pack) as reading:
        reading.begin()


def test_leaving_stops_the_work(pack):
    """A refused pack of a terabyte is not hashed to its end."""
    started, done = threading.Event(), []

    class Slow:
        start = note = finish = staticmethod(lambda *_: None)

        def advance(self, amount):
            started.set()
            time.sleep(0.05)
            done.append(amount)

    began = time.monotonic()
    with PackReading(pack, progress=Slow(), threads=1) as reading:
        reading.begin()
        assert started.wait(5)
    assert len(done) < 6 and time.monotonic() - began < 2


def test_threads_take_turns_as_before(pack):
    before = sys.getswitchinterval()
    with PackReading(pack, progress=SILENT) as reading:
        reading.begin()
        reading.manifest()
    assert sys.getswitchinterval() == before
