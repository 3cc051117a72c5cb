"""What a record leaves out of the pack digest must be nothing that anybody loads."""

import bundles
import pytest
from bundles import PACK_FILES, make_bundle, make_setting

from ucaudit.cli.main import main
from ucaudit.packs.excluded import is_loaded


@pytest.mark.parametrize(
    ("path", "loaded"),
    [
        ("layer-00000.safetensors", True),
        ("a/b/Model.GGUF", True),
        (".cache/x.safetensors", True),
        (".git/model.bin", True),
        ("config.json", True),
        ("manifest.json", True),
        ("modeling_x.py", True),
        ("merges.txt", True),
        (".git/config.json", False),
        (".git/objects/ab/cd", False),
        ("notes.txt", False),
        (".gitattributes", False),
    ],
)
def test_what_a_loader_reads(path, loaded):
    assert is_loaded(path) is loaded


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """``audited(hidden, excludes)``: a pack with files that the record leaves out; the words that verify it."""
    setting = make_setting(tmp_path)

    def make(hidden, excludes):
        kept = {name: data for name, data in PACK_FILES.items() if name not in hidden}
        monkeypatch.setattr(bundles, "PACK_FILES", kept)
        for name in hidden:
            (setting.pack / name).parent.mkdir(parents=True, exist_ok=True)
            (setting.pack / name).write_bytes(b"backdoored")

        def leave_out(record):
            return record.model_copy(update={"pack": record.pack.model_copy(update={"excluded": excludes})})

        bundle = make_bundle(setting, tmp_path / "bundle", change_record=leave_out)
        return ("verify", bundle, "--trust", setting.trust, "--pack", setting.pack)

    return make


def ran(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out + captured.err


@pytest.mark.parametrize(
    ("hidden", "excludes"),
    [
        (["layer-00000.safetensors"], ("layer-00000.safetensors",)),
        (["manifest.json"], ("manifest.json",)),
        (["notes/x.safetensors"], ("notes/",)),
    ],
)
def test_a_layer_that_was_left_out(audited, capsys, tmp_path, hidden, excludes):
    kept = [] if excludes != ("notes/",) else ["notes/.hidden"]
    words = audited([*hidden, *kept], excludes)
    code, text = ran(capsys, *words)
    assert code == 1, text
    assert f"{hidden[0]}: left out, and never compared with anything" in " ".join(text.split())
    policy = tmp_path / "policy.toml"
    rules = "[measurement]\nn = 30\nseq_len = 8\n[claims]\nppl_ratio_max = 1.0125\n[gate]\nexclude = {}\n"
    policy.write_text(rules.format([]))
    assert ran(capsys, *words, "--policy", policy)[0] == 1
    policy.write_text(rules.format(list(excludes)))
    code, text = ran(capsys, *words, "--policy", policy)
    if excludes == ("notes/",):
        assert (code, "not compared, by the signer's choice" in " ".join(text.split())) == (0, True), text
    else:  # without one of its own files it is no pack, whatever a policy allows
        assert code == 3, text


def test_what_nobody_loads_is_listed(audited, capsys):
    code, text = ran(capsys, *audited([".git/config", ".git/objects/ab"], (".git/", "absent.txt")))
    assert code == 0
    assert ".git/ (2 files here), absent.txt (0 files here)" in " ".join(text.split())
