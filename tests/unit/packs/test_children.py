"""Child processes that hash: the same digests, whatever becomes of the children; and they never outlive anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ucaudit.core.errors import InputError
from ucaudit.packs.children import Children
from ucaudit.packs.memo import DigestMemo
from ucaudit.packs.opened import OpenedPack, open_pack
from ucaudit.packs.reading import begin_early

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="children are used on Linux only"),
    # The product forks only where there is one thread; pytest-xdist has more, which Python 3.12 warns about.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def make_pack(place: Path, files: int = 6, size: int = 1000) -> Path:
    place.mkdir()
    for number in range(files):
        (place / f"{number}.dat").write_bytes(b"data%d" % number * (size * (number + 1) // 5))
    return place


def children_of(opened: OpenedPack, count: int = 2) -> Children:
    return Children(opened, opened.unknown(), count)


def gone(pid: int) -> bool:
    """Whether it has ended; an orphan may stay in the table if the machine's first process does not clear it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def eventually_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(map(gone, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("files", [1, 6, 1500])
def test_the_same_digests_and_every_byte_is_reported(tmp_path, files, count):
    pack = make_pack(tmp_path / "pack", files, 10)
    seen: list[int] = []
    memo = DigestMemo()
    opened = open_pack(pack, memo=memo)
    found = opened.file_manifest(progress=seen.append, children=children_of(opened, count))
    assert found == open_pack(pack).file_manifest()
    assert sum(seen) == opened.total_bytes
    assert opened.unknown() == []


def test_children_do_the_work(tmp_path, monkeypatch):
    opened = open_pack(make_pack(tmp_path / "pack"))
    children = children_of(opened)
    monkeypatch.setattr(OpenedPack, "hash_file", lambda *_, **__: pytest.fail("hashed again"))
    assert len(opened.file_manifest(children=children).entries) == 6
    assert children._pids == []


def test_a_large_file_is_reported_as_it_is_read(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    with (pack / "sparse.dat").open("wb") as handle:
        handle.truncate(200 << 20)
    opened, seen = open_pack(pack), []
    opened.file_manifest(progress=seen.append, children=children_of(opened))
    assert len(seen) >= 4 and sum(seen) == 200 << 20


def test_what_a_killed_child_leaves_is_hashed_all_the_same(tmp_path):
    pack = make_pack(tmp_path / "pack", 60, 100_000)
    opened = open_pack(pack)
    children = children_of(opened)
    for pid in children._pids:
        os.kill(pid, signal.SIGKILL)
    assert opened.file_manifest(children=children) == open_pack(pack).file_manifest()


@pytest.mark.parametrize("fail_at", [0, 1])
def test_without_memory_for_children_there_are_fewer(tmp_path, monkeypatch, fail_at):
    pack = make_pack(tmp_path / "pack")
    opened, real, calls = open_pack(pack), os.fork, []

    def fork() -> int:
        calls.append(1)
        if len(calls) > fail_at:
            raise BlockingIOError(11, "no more processes")
        return real()

    monkeypatch.setattr(os, "fork", fork)
    children = children_of(opened, 3)
    assert len(children._pids) == fail_at
    assert opened.file_manifest(children=children) == open_pack(pack).file_manifest()


def test_a_changed_file_is_an_error_of_whoever_asks(tmp_path):
    pack = make_pack(tmp_path / "pack")
    opened = open_pack(pack)
    (pack / "3.dat").write_bytes(b"other")
    with pytest.raises(InputError, match=r"changed while it was being read") as caught:
        opened.file_manifest(children=children_of(opened))
    assert caught.value.subject == "pack/3.dat"


def test_what_progress_raises_ends_them(tmp_path):
    opened = open_pack(make_pack(tmp_path / "pack"))
    children = children_of(opened)
    pids = list(children._pids)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.file_manifest(progress=stop, children=children)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "and none is left as a zombie"


def test_closing_ends_them_at_once_and_twice_is_once(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    with (pack / "sparse.dat").open("wb") as handle:
        handle.truncate(1 << 40)
    children = children_of(open_pack(pack))
    pids = list(children._pids)
    children.close()
    children.close()
    assert pids and all(map(gone, pids))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - entries of this kind are no paths


def test_nothing_stays_open_whether_or_not_anybody_reads(tmp_path):
    opened = open_pack(make_pack(tmp_path / "pack"))
    before = open_descriptors()
    unread = children_of(opened)
    unread.close()
    assert list(unread.digests(lambda _: None)) == []
    opened.file_manifest(children=children_of(opened))
    assert open_descriptors() == before


def test_a_child_that_somebody_else_waited_for_is_no_error(tmp_path):
    pack = make_pack(tmp_path / "pack")
    opened = open_pack(pack)
    children = children_of(opened)
    for pid in children._pids:
        os.waitpid(pid, 0)
    assert opened.file_manifest(children=children) == open_pack(pack).file_manifest()


def test_without_a_thread_to_listen_there_are_no_children(tmp_path, monkeypatch):
    pack = make_pack(tmp_path / "pack")
    made = []
    monkeypatch.setattr(Children, "possible", staticmethod(lambda: True))
    real = Children.__init__

    def remember(self, *given):
        real(self, *given)
        made.append(self)

    monkeypatch.setattr(Children, "__init__", remember)

    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = open_descriptors()
    reading = begin_early(pack)
    monkeypatch.undo()
    assert made and made[0]._pids == [] and open_descriptors() == before
    assert reading.manifest() == open_pack(pack).file_manifest()


EARLY = """
import sys, time
from pathlib import Path
from ucaudit.packs import children
from ucaudit.packs.reading import begin_early
real = children.Children.__init__
def init(self, *given):
    real(self, *given)
    print(*self._pids, flush=True)
children.Children.__init__ = init
reading = begin_early(Path(sys.argv[1]), threads=2)
"""


def test_a_fresh_program_forks_and_its_end_is_theirs(tmp_path):
    """Even if it is killed: a child that nobody listens to stops before it has read a terabyte."""
    pack = tmp_path / "pack"
    pack.mkdir()
    with (pack / "sparse.dat").open("wb") as handle:
        handle.truncate(1 << 40)
    program = subprocess.Popen(
        [sys.executable, "-c", EARLY + "time.sleep(60)", str(pack)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    pids = [int(word) for word in program.stdout.readline().split()]
    assert pids and not any(map(gone, pids))
    program.kill()
    program.wait()
    program.stdout.close()
    assert eventually_gone(pids)


@pytest.mark.parametrize(
    "before", ["import torch\n", "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"]
)
def test_where_forking_is_unwise_threads_do_it(tmp_path, before):
    pack = make_pack(tmp_path / "pack")
    code = before + EARLY + "print(reading.manifest().digest)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(pack)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [open_pack(pack).file_manifest().digest] and done.stderr == ""


def test_an_early_start_in_a_fresh_program(tmp_path):
    pack = make_pack(tmp_path / "pack")
    code = (
        EARLY
        + "print(reading.manifest().digest)\nreading.begin(['5.dat'])\nprint(reading.manifest(['5.dat']).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(pack)], capture_output=True, text=True, check=True, timeout=60
    )
    pids, whole, more, part = done.stdout.splitlines()
    assert len(pids.split()) == 2 and more == "" and done.stderr == "", "all is known when asked again"
    assert whole == open_pack(pack).file_manifest().digest
    assert part == open_pack(pack, excludes=["5.dat"]).file_manifest().digest
