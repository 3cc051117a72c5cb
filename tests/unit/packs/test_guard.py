"""`ucaudit.guard`: what is handed on is what was checked, whatever happens to the files meanwhile."""

import mmap
import os
import shutil
import stat
from pathlib import Path

import pytest
from bundles import PACK_FILES, make_bundle, make_setting, make_values
from tinypack import TENSORS

import ucaudit
from ucaudit.core.errors import InconclusiveError, InputError, NotAdmittedError, NotFoundError, OutputError
from ucaudit.packs import guard as module

POLICY = "[measurement]\nn = 30\nseq_len = 8\n[claims]\nppl_ratio_max = 1.0125\n"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def place(setting, honest, tmp_path):
    """A pack with its evidence beside it, and what a gate needs."""
    shutil.copytree(setting.pack, tmp_path / "pack")
    shutil.copytree(honest, tmp_path / "pack.evidence")
    shutil.copy(setting.trust, tmp_path / "trust.toml")
    (tmp_path / "policy.toml").write_text(POLICY)
    return tmp_path


def guarded(place, **how):
    return ucaudit.guard(place / "pack", place / "policy.toml", place / "trust.toml", **how)


@pytest.mark.parametrize("copy", [False, True])
def test_every_file_that_was_checked_is_there_and_no_other(place, copy):
    with guarded(place, copy=copy) as pack:
        assert dict(pack) == {path: len(data) for path, data in PACK_FILES.items()}
        assert {path: pack.read(path) for path in pack} == PACK_FILES
        assert {path: pack.file_path(path).read_bytes() for path in pack} == PACK_FILES
        assert pack.record.pack.name == "pack"
        assert {check.status for check in pack.checks} <= {"pass", "warn", "not-checked"}
        (place / "pack" / "later.json").write_text("{}")
        for path in ("later.json", "../policy.toml", "/etc/passwd", ""):
            with pytest.raises(NotFoundError):
                pack.open(path)


def test_handles_are_read_only_and_independent(place):
    with guarded(place) as pack, pack.open(TENSORS) as one, pack.open(TENSORS) as two:
        assert one.read(10) == PACK_FILES[TENSORS][:10]
        assert two.read() == PACK_FILES[TENSORS]
        assert one.read(5) == PACK_FILES[TENSORS][10:15]
        assert one.seek(-4, os.SEEK_END) == len(PACK_FILES[TENSORS]) - 4
        assert one.read() == PACK_FILES[TENSORS][-4:]
        with pytest.raises(ValueError, match="before the start"):
            one.seek(-1)
        with pytest.raises(OSError):
            os.write(one.raw.fileno(), b"x")
        with mmap.mmap(one.raw.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == PACK_FILES[TENSORS]


def swap(file, data):
    """Put another file in the place of one, as an update or an attacker does."""
    other = file.with_name("swapped")
    other.write_bytes(data)
    other.replace(file)


def test_a_swapped_file_is_never_seen(place):
    with guarded(place) as pack:
        swap(place / "pack" / TENSORS, b"evil")
        assert pack.read(TENSORS) == PACK_FILES[TENSORS]
        assert pack.file_path(TENSORS).read_bytes() == PACK_FILES[TENSORS]
        shutil.rmtree(place / "pack")
        assert pack.read("manifest.json") == PACK_FILES["manifest.json"]


def test_a_write_into_a_checked_file_is_noticed(place):
    file = place / "pack" / TENSORS
    with pytest.raises(InputError, match="changed after it was checked"), guarded(place) as pack:
        with file.open("r+b") as handle:
            handle.write(b"X")
        pack.read(TENSORS)


@pytest.mark.parametrize("size", [0, 10])
def test_a_change_that_nobody_read_is_noticed_at_the_end(place, size):
    with pytest.raises(InputError, match="changed after it was checked"), guarded(place):
        os.truncate(place / "pack" / TENSORS, size)


def test_a_change_with_its_times_set_back_is_noticed(place):
    file = place / "pack" / TENSORS
    with pytest.raises(InputError, match="changed after it was checked"), guarded(place) as pack:
        before = file.stat()
        file.write_bytes(PACK_FILES[TENSORS][:-1] + b"X")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        pack.check()


def test_a_touched_file_still_holds_what_was_checked(place):
    with guarded(place) as pack:
        os.utime(place / "pack" / TENSORS)
        os.link(place / "pack" / TENSORS, place / "link")
        pack.check()
        assert pack.read(TENSORS) == PACK_FILES[TENSORS]


def test_an_error_inside_the_block_is_not_hidden_by_a_change(place):
    with pytest.raises(ZeroDivisionError), guarded(place):
        (place / "pack" / TENSORS).write_bytes(b"")
        raise ZeroDivisionError


def test_a_private_copy_outlives_the_original(place):
    with guarded(place, copy_to=place) as pack:
        directory = pack.directory
        assert directory.name == "pack" and directory.parent.parent == place
        assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
        for file in PACK_FILES:
            (place / "pack" / file).write_bytes(b"evil")
        assert {path: (directory / path).read_bytes() for path in pack} == PACK_FILES
        assert stat.S_IMODE((directory / TENSORS).stat().st_mode) == 0o400
    assert not directory.parent.exists()
    assert not list(place.glob("ucaudit-guard-*"))


def test_a_closed_pack_gives_nothing(place):
    with guarded(place) as pack:
        pass
    with pytest.raises(ValueError, match="closed"):
        pack.read(TENSORS)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("copy", [False, True])
def test_a_refused_pack_leaves_nothing_open_and_no_copy(place, copy):
    (place / "pack" / TENSORS).write_bytes(b"other")
    before = open_descriptors()
    how = {"copy_to": place} if copy else {}
    with pytest.raises(NotAdmittedError, match=r"refused by the gate.*pack\.SHA256SUMS") as caught:
        guarded(place, **how)
    assert open_descriptors() == before
    assert not list(place.glob("ucaudit-guard-*"))
    assert caught.value.reason == "pack-files"
    assert {"pack-files", "signers", "claim-ppl-ratio"} <= {check.slug for check in caught.value.checks}


def test_no_evidence(place):
    shutil.rmtree(place / "pack.evidence")
    with pytest.raises(NotAdmittedError) as caught:
        guarded(place)
    assert caught.value.reason == "evidence" and "unsigned" in caught.value.hint


def test_too_little_data_is_its_own_error(place, setting):
    open_question = make_bundle(setting, place / "open", values=make_values(drift=0.0122, spread=0.004))
    with pytest.raises(InconclusiveError):
        guarded(place, evidence=open_question)


def test_a_file_swapped_between_check_and_opening_is_refused(place, monkeypatch):
    """Renamed in place, of the same size and with its times set back: only the digest tells."""
    real = module._hold

    def late(opened, handles):
        swap(place / "pack" / TENSORS, PACK_FILES[TENSORS][:-1] + b"X")
        real(module.open_pack(place / "pack"), handles)

    monkeypatch.setattr(module, "_hold", late)
    with pytest.raises(InputError, match="replaced or changed"):
        guarded(place)


def test_a_file_added_between_check_and_opening_is_refused(place, monkeypatch):
    real = module.open_pack

    def late(path, **how):
        (place / "pack" / "more.json").write_text("{}")
        return real(path, **how)

    monkeypatch.setattr(module, "open_pack", late)
    with pytest.raises(InputError, match="came or went"):
        guarded(place)


def test_too_few_open_files(place, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    with pytest.raises(OutputError, match="allows 8 open ones"):
        guarded(place)


def test_no_room_for_a_copy(place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OutputError, match="0 MB are free"):
        guarded(place, copy_to=place)
    assert not list(place.glob("ucaudit-guard-*"))
    with pytest.raises(OutputError):
        guarded(place, copy_to=place / "missing")


def test_the_package_offers_nothing_else():
    with pytest.raises(AttributeError):
        ucaudit.gurd  # noqa: B018
