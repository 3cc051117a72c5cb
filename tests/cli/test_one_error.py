"""One cause, one error line, one hint; the JSON's exit code is the process's; nothing is overwritten or broken."""

import json
import shutil

import pytest

from .conftest import ucaudit


def lines(ran):
    found = ran.err.splitlines()
    errors = [line for line in found if line.startswith("ucaudit: error: ")]
    hints = [line for line in found if line.startswith("ucaudit: hint: ")]
    return errors, hints


def one(ran, code, *words):
    errors, hints = lines(ran)
    assert (ran.code, len(errors), len(hints)) == (code, 1, 1), ran.err
    for word in words:
        assert word in ran.err, ran.err


@pytest.fixture
def trust(desk):
    return ("--trust", desk.root / "trust.toml")


@pytest.fixture
def damaged(desk, tmp_path):
    """Everything that is wrong with inputs, by name."""
    (tmp_path / "empty").mkdir()
    whole = shutil.copytree(desk.pack, tmp_path / "truncated")
    layer = whole / "layer-00000.safetensors"
    layer.write_bytes(layer.read_bytes()[:-50])
    half = shutil.copytree(desk.reference, tmp_path / "half-model")
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:-50])
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["absent", "empty", "truncated"])
@pytest.mark.parametrize("command", ["inspect", "reconstruct", "measure", "attest", "verify", "gate", "plan"])
def test_packs_that_are_none(desk, damaged, trust, name, command):
    pack = damaged / name
    common = ("--reference", desk.reference)
    policy = ("--policy", desk.root / "policy.toml")
    ledger = ("--ledger", desk.ledger, "--key", desk.key)
    words = {
        "inspect": (pack,),
        "reconstruct": (pack,),
        "measure": (pack, *common, "--corpus", desk.root / "text.txt", "--out", damaged / "m"),
        "attest": (pack, *common, *policy, *ledger, "--out", damaged / "b"),
        "plan": (pack, *common, *policy, *ledger, "--out", damaged / "p"),
        "verify": (desk.bundle, *trust, "--pack", pack),
        "gate": (pack, *desk.gate),
    }[command]
    ran = ucaudit(command, *words, "--json")
    drifted = name == "truncated" and command in ("verify", "gate")
    one(ran, 1 if drifted else 3, name)
    assert ran.json["exitCode"] == ran.code
    assert ran.json["error"]["hint"]
    assert not (damaged / "m").exists()


def test_a_model_that_is_cut_off(desk, damaged):
    ran = ucaudit("pack", damaged / "half-model", "--out", damaged / "p", "--json")
    one(ran, 3, "truncated", "download or copy it again")


def test_evidence_and_trust_files_that_are_not_there(desk, tmp_path, trust):
    one(ucaudit("verify", tmp_path / "nowhere", *trust), 3, "no such bundle directory")
    one(ucaudit("verify", desk.bundle, "--trust", tmp_path / "t.toml"), 3, "no such trust file")


def test_an_edited_file_of_a_bundle(desk, bundle_copy, trust):
    path = bundle_copy / "nll-pack.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    one(ucaudit("verify", bundle_copy, *trust), 1, "nll-pack.safetensors", "more: see FAIL above")
    ran = ucaudit("bound", bundle_copy, "--json")
    one(ran, 1, "nll-pack.safetensors")
    assert ran.json["error"]["message"] in ran.err


def test_a_key_that_has_expired_or_was_revoked(desk, tmp_path, trust):
    other = tmp_path / "trust.toml"
    text = (desk.root / "trust.toml").read_text()
    other.write_text(
        text.replace('principal = "tester"', 'principal = "tester"\nvalid-until = "2020-01-01T00:00:00Z"')
    )
    one(ucaudit("verify", desk.bundle, "--trust", other), 1, "expired")


def test_a_bundle_that_was_never_closed(desk, bundle_copy, trust):
    (bundle_copy / "bundle.dsse.json").unlink()
    one(ucaudit("verify", bundle_copy, *trust), 1, "never closed", "unfinished")


def test_inspect_of_a_pack_that_contradicts_itself(desk, pack_copy):
    (pack_copy / "config.json").write_bytes((pack_copy / "config.json").read_bytes().replace(b"0.02", b"0.03"))
    ran = ucaudit("inspect", pack_copy, "--json")
    one(ran, 1, "config.json: the manifest claims")
    assert ran.json["exitCode"] == 1


def test_a_digest_alone_does_not_count_tensors(desk):
    ran = ucaudit("reconstruct", desk.pack, "--expect", "0" * 64, "--json")
    one(ran, 1, "expected state digest 0000", "only a whole STATE file tells")
    assert "1 tensor" not in ran.err
    assert ran.json["exitCode"] == 1


@pytest.mark.parametrize("command", ["report", "prove", "export"])
def test_outputs_overwrite_nothing_and_break_no_bundle(desk, bundle_copy, tmp_path, trust, command):
    def run(target):
        if command == "report":
            return ucaudit("report", bundle_copy, "--profile", "soc2", "--out", target, *trust)
        more = ("--index", 0) if command == "prove" else ()
        return ucaudit("ledger", command, "--ledger", desk.ledger, *more, "--out", target)

    suffix = "html" if command == "report" else "txt"
    before = sorted(path.name for path in bundle_copy.iterdir())
    one(run(bundle_copy / f"report-x.{suffix}"), 3, "lies inside the bundle", "choose a path outside")
    assert sorted(path.name for path in bundle_copy.iterdir()) == before
    taken = tmp_path / f"taken.{suffix}"
    taken.write_text("mine")
    one(run(taken), 3, "never overwritten")
    assert taken.read_text() == "mine"
    assert run(tmp_path / f"new.{suffix}").code == 0
    assert ucaudit("verify", bundle_copy, *trust).code == 0


def test_junit_stays_out_of_the_bundle(desk, bundle_copy, tmp_path, trust):
    words = ("--evidence", bundle_copy, "--policy", desk.root / "policy.toml", *trust)
    one(ucaudit("gate", desk.pack, *words, "--junit", bundle_copy / "gate.xml"), 3, "lies inside the bundle")


@pytest.mark.slow
def test_outputs_inside_an_input(desk, pack_copy, tmp_path):
    measured = ("--reference", desk.reference, "--corpus", desk.root / "text.txt", "--n", 2, "--seq-len", 16)
    for ran in (
        ucaudit("reconstruct", pack_copy, "--out", pack_copy / "c"),
        ucaudit("measure", pack_copy, *measured, "--out", pack_copy / "m"),
        ucaudit("pack", pack_copy, "--out", pack_copy / "p"),
    ):
        one(ran, 3, "which is an input")


def test_measure_leaves_no_directory_behind_a_failure(desk, tmp_path, monkeypatch, capsys):
    from ucaudit.cli.main import main
    from ucaudit.core.errors import ModelError
    from ucaudit.lab import measure

    def fail(*_, state_dir, **__):
        (state_dir / "0123456789abcdef").mkdir(parents=True)
        raise ModelError("logits are not finite")

    monkeypatch.setattr(measure, "measure", fail)
    words = ["measure", desk.pack, "--reference", desk.reference, "--corpus", desk.root / "text.txt"]
    words += ["--n", 2, "--seq-len", 16, "--out", tmp_path / "deep" / "m", "--json"]
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert (stopped.value.code, json.loads(capsys.readouterr().out)["exitCode"]) == (3, 3)
    assert not (tmp_path / "deep" / "m").exists()


def test_an_edited_envelope_is_not_a_missing_key(desk, bundle_copy, tmp_path, trust):
    """Adding a key to the trust file would not help, so nobody is told to."""
    import base64

    path = bundle_copy / "attestation.dsse.json"
    envelope = json.loads(path.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"determination":"pass"', b'"determination":"fail"')
    envelope["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(envelope))
    ran = ucaudit("report", bundle_copy, "--profile", "soc2", "--out", tmp_path / "r.html", *trust)
    one(ran, 1, "does not fit the signed bytes", "edited after it was signed")
    assert "trust add" not in ran.err


@pytest.mark.slow
def test_every_command_says_its_exit_code_in_json(desk, tmp_path, trust):
    place = tmp_path
    made = (
        ("keygen", "--out", place, "--name", "k", "--no-password"),
        ("trust", "list", "--file", desk.root / "trust.toml"),
        ("policy", "init", "--out", place / "p.toml"),
        ("policy", "check", place / "p.toml"),
        ("inspect", desk.pack),
        ("reconstruct", desk.pack),
        ("pack", desk.reference, "--out", place / "pk", "--dry-run"),
        ("verify", desk.bundle, *trust),
        ("verify", desk.bundle / "attestation.sigstore.json", *trust),
        ("gate", desk.pack, *desk.gate),
        ("bound", desk.bundle),
        ("bound", desk.bundle, "--margin", "0.9"),
        ("report", desk.bundle, "--profile", "soc2", "--out", place / "r.html"),
        ("ledger", "init", "--ledger", place / "l", "--key", desk.key, "--origin", "x.invalid/l"),
        ("ledger", "verify", "--ledger", desk.ledger),
        ("ledger", "export", "--ledger", desk.ledger),
        ("ledger", "prove", "--ledger", desk.ledger, "--index", 0),
        ("schema",),
        ("doctor",),
    )
    for words in made:
        ran = ucaudit(*words, "--json")
        assert ran.json["exitCode"] == ran.code, (words, ran)
    assert "exitCode" not in ucaudit("schema", "attestation", "--json").json


def test_wide_output_fits_eighty_columns(desk, tmp_path):
    (tmp_path / "torch.py").write_text("")
    for words in (("doctor",), ("bound", desk.bundle), ("inspect", desk.pack)):
        ran = ucaudit(*words)
        assert ran.code == 0
        assert max(map(len, ran.out.splitlines())) <= 80, ran.out
