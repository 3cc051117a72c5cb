"""``pull`` against a stand-in hub on loopback: pinned, checked, resumed, recorded."""

import hashlib
import json

import hub as stand_in
import pytest

from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnsafePathError,
)
from ucaudit.interop.hub import pull

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "sub/notes.txt": b"hello"}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with stand_in.serving() as server:
        server.files = dict(FILES)
        yield server


def fetch(hub, out, revision=None, **options):
    return pull(stand_in.REPOSITORY, revision, out, endpoint=hub.endpoint, **options)


def test_everything_at_one_commit(hub, tmp_path):
    done = fetch(hub, tmp_path / "m", "main")
    assert done.commit == stand_in.COMMIT and not done.partial
    found = {path.relative_to(done.directory).as_posix() for path in done.directory.rglob("*") if path.is_file()}
    assert found == set(FILES)
    assert all((done.directory / name).read_bytes() == data for name, data in FILES.items())
    record = json.loads(done.record.read_text())
    assert record["requestedRevision"] == "main" and record["commit"] == stand_in.COMMIT
    digests = {entry["path"]: (entry["sha256"], entry["checkedAgainst"]) for entry in record["files"]}
    assert digests["model.safetensors"] == (hashlib.sha256(FILES["model.safetensors"]).hexdigest(), "sha-256")
    assert digests["config.json"][1] == "git object"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.pulled.json"]
    assert all("/main/" not in path for _, path, _ in hub.asked if "/resolve/" in path)


def test_the_environment_names_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    assert pull(stand_in.REPOSITORY, None, tmp_path / "m").commit == stand_in.COMMIT


def test_a_part_of_it_is_recorded_as_such(hub, tmp_path):
    done = fetch(hub, tmp_path / "m", include=["*.json", "*.txt"], exclude=["sub/*"])
    assert set(done.files) == {"config.json"} and done.partial
    record = json.loads(done.record.read_text())
    assert record["partial"] is True and record["leftOut"] == ["model.safetensors", "sub/notes.txt"]
    with pytest.raises(InputError, match="none of 3 files"):
        fetch(hub, tmp_path / "n", include=["*.gguf"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_the_stated_one(hub, tmp_path, name):
    hub.lies[name] = FILES[name][:-1] + b"X"
    with pytest.raises(DigestMismatchError, match=r"sha-256|git object") as caught:
        fetch(hub, tmp_path / "m")
    assert caught.value.subject.endswith(name) and not (tmp_path / "m").exists()
    hub.lies.clear()
    assert fetch(hub, tmp_path / "m").files[name] == hashlib.sha256(FILES[name]).hexdigest()


@pytest.mark.slow  # the hub library waits before it tries again
def test_an_interrupted_run_goes_on(hub, tmp_path):
    fetch(hub, tmp_path / "other", include=["config.json"])
    hub.broken["model.safetensors"] = 4096
    hub.lies["sub/notes.txt"] = b"hallo"
    with pytest.raises((DigestMismatchError, UnavailableError)):
        fetch(hub, tmp_path / "m")
    hub.lies.clear()
    assert (tmp_path / "m.pulling").is_dir()
    before = len(hub.asked)
    done = fetch(hub, tmp_path / "m")
    assert set(done.files) == set(FILES)
    again = [path for method, path, _ in hub.asked[before:] if method == "GET" and "/resolve/" in path]
    assert not any(path.endswith("config.json") for path in again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.pulled.json", "other", "other.pulled.json"]


def test_a_branch_that_moved_on(hub, tmp_path):
    hub.lies["sub/notes.txt"] = b"hallo"
    with pytest.raises(DigestMismatchError):
        fetch(hub, tmp_path / "m")
    hub.lies.clear()
    hub.commit = "f" * 40
    with pytest.raises(RefusedError, match="another repository or commit"):
        fetch(hub, tmp_path / "m")


def test_what_is_not_there(hub, tmp_path):
    with pytest.raises(NotFoundError, match="no such repository"):
        pull("owner/other", None, tmp_path / "m", endpoint=hub.endpoint)
    with pytest.raises(NotFoundError, match="no such revision"):
        fetch(hub, tmp_path / "m", "gone")
    for name in ("a/b/c", "", "../x", "a b"):
        with pytest.raises(InputError, match="not a repository"):
            pull(name, None, tmp_path / "m", endpoint=hub.endpoint)
    (tmp_path / "m").mkdir()
    with pytest.raises(RefusedError, match="never overwritten"):
        fetch(hub, tmp_path / "m")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ".cache/x", "a\nb"])
def test_a_path_that_leads_out(hub, tmp_path, path):
    hub.extra.append({"rfilename": path, "size": 1, "blobId": "0" * 40})
    with pytest.raises(UnsafePathError):
        fetch(hub, tmp_path / "m")
    assert not (tmp_path / "m.pulling").exists()


def test_no_hub(tmp_path):
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        pull("owner/model", None, tmp_path / "m", endpoint="http://127.0.0.1:9")
    assert caught.value.exit_code == 4
