"""The main job through the command line, and every wrong input with its exit code and one clear message."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from .conftest import POLICY, ucaudit


def complaint(ran, code, *words):
    """One error line, the right exit code, no traceback."""
    assert ran.code == code, ran
    lines = [line for line in ran.err.splitlines() if line.startswith("ucaudit: error: ")]
    assert len(lines) == 1, ran.err
    for word in words:
        assert word in ran.err, ran.err
    return lines


def test_verify_the_bundle_and_the_pack(desk):
    ran = ucaudit("verify", desk.bundle, "--trust", desk.root / "trust.toml", "--pack", desk.pack, "--full")
    assert ran.code == 0, ran.err
    assert "FAIL" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    ran = ucaudit("verify", desk.bundle, "--trust", desk.root / "trust.toml", "--json")
    assert ran.json["authentic"] is True
    assert ran.json["determination"] == "pass"
    assert len(ran.out.splitlines()) == 1


def test_gate_admits_and_writes_junit(desk, tmp_path):
    ran = ucaudit("gate", desk.pack, *desk.gate, "--junit", tmp_path / "gate.xml")
    assert ran.code == 0, ran.err
    assert "ADMITTED" in ran.out
    assert 'failures="0"' in (tmp_path / "gate.xml").read_text()


def test_gate_refuses_one_flipped_bit_and_names_file_and_tensor(desk, pack_copy):
    layer = pack_copy / "layer-00001.safetensors"
    data = bytearray(layer.read_bytes())
    data[-100] ^= 0x10
    layer.write_bytes(data)
    ran = ucaudit("gate", pack_copy, *desk.gate)
    complaint(ran, 1, "layer-00001.safetensors", "expected sha-256")
    ran = ucaudit("gate", pack_copy, *desk.gate, "--full", "--json")
    assert ran.code == 1
    states = [check for check in ran.json["checks"] if check["slug"] == "pack-state"]
    assert "model.layers.1." in states[0]["detail"]
    assert ran.json["admitted"] is False


def test_sha256sum_checks_the_pack(desk):
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", desk.bundle / "pack.SHA256SUMS"],
        cwd=desk.pack,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_openssl_and_jq_verify_the_envelope(desk, tmp_path):
    script = """
    set -euo pipefail
    T=$(jq -j .payloadType $B/attestation.dsse.json); jq -j .payload $B/attestation.dsse.json | base64 -d > p
    jq -j '.signatures[0].sig' $B/attestation.dsse.json | base64 -d > s
    { printf 'DSSEv1 %d %s %d ' ${#T} "$T" $(wc -c < p); cat p; } > pae
    openssl pkeyutl -verify -pubin -inkey $K -rawin -in pae -sigfile s
    """
    environment = {**os.environ, "B": str(desk.bundle), "K": str(desk.key.with_suffix(".pub"))}
    missing = [tool for tool in ("jq", "openssl") if shutil.which(tool) is None]
    assert not missing, f"install {missing}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p").read_text())["predicate"]["determination"] == "pass"


def test_a_state_line_is_the_digest_of_the_tensors_raw_bytes(desk, tmp_path):
    import hashlib
    import struct

    ran = ucaudit("reconstruct", desk.pack, "--out", tmp_path / "checkpoint", "--json")
    assert ran.code == 0, ran.err
    raw = (tmp_path / "checkpoint" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    lines = (desk.bundle / "STATE").read_text().splitlines()
    assert len(lines) == len([name for name in header if name != "__metadata__"])
    for line in lines:
        digest, dtype, shape, name = line.split("  ", 3)
        begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
        assert hashlib.sha256(raw[begin:end]).hexdigest() == digest
        assert header[name]["dtype"] == dtype
        assert "x".join(map(str, header[name]["shape"])) == shape


def test_transformers_loads_the_reconstruction_and_generates(desk, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert ucaudit("reconstruct", desk.pack, "--out", tmp_path / "checkpoint").code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    made = model.generate(**tokenizer("The hacker", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert made.shape[1] > 8


def test_a_failed_claim_is_signed_and_exits_1_then_verifies_with_0(desk, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(
        POLICY.format(ratio=0.9).replace("text.txt", os.path.relpath(desk.root / "text.txt", tmp_path))
    )
    common = ("--reference", desk.reference, "--policy", policy, "--key", desk.key)
    ran = ucaudit("attest", desk.pack, *common, "--out", tmp_path / "bundle", "--json")
    assert ran.code == 1
    assert ran.json["determination"] == "fail"
    ran = ucaudit("verify", tmp_path / "bundle", "--trust", desk.root / "trust.toml")
    assert ran.code == 0
    assert "FAILED CLAIM" in ran.out
    ran = ucaudit("verify", tmp_path / "bundle", "--trust", desk.root / "trust.toml", "--policy", policy)
    complaint(ran, 1, "see FAIL above")
    assert "FAIL  claim ppl-ratio <= 0.9" in ran.out


def test_a_dry_run_writes_nothing(desk, tmp_path):
    common = ("--reference", desk.reference, "--policy", desk.root / "policy.toml", "--key", desk.key)
    ran = ucaudit("attest", desk.pack, *common, "--out", tmp_path / "bundle", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["windows"] == 30
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_attestation_leaves_nothing_that_looks_whole_and_resumes(desk, tmp_path):
    command = [sys.executable, "-m", "ucaudit", "attest", desk.pack, "--reference", desk.reference]
    command += ["--policy", desk.root / "policy.toml", "--key", desk.key, "--out", tmp_path / "bundle"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(tmp_path.glob(".bundle.measure/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert not (tmp_path / "bundle").exists()
    assert ucaudit(*map(str, command[3:])).code == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
    for name in ("nll-pack.safetensors", "nll-reference.safetensors", "pair.safetensors"):
        assert (tmp_path / "bundle" / name).read_bytes() == (desk.bundle / name).read_bytes()


def attest(desk, tmp_path, **changes):
    options = {
        "pack": desk.pack,
        "--reference": desk.reference,
        "--policy": desk.root / "policy.toml",
        "--key": desk.key,
        "--out": tmp_path / "out",
        **{name if name == "pack" else f"--{name}": value for name, value in changes.items()},
    }
    pack = options.pop("pack")
    return ucaudit("attest", pack, *[word for pair in options.items() for word in pair])


def test_missing_pack(desk, tmp_path):
    complaint(attest(desk, tmp_path, pack=tmp_path / "absent"), 3, "absent", "no such")


def test_empty_directory(desk, tmp_path):
    (tmp_path / "empty").mkdir()
    complaint(attest(desk, tmp_path, pack=tmp_path / "empty"), 3, "empty")


def test_truncated_safetensors(desk, tmp_path, pack_copy):
    layer = pack_copy / "layer-00000.safetensors"
    layer.write_bytes(layer.read_bytes()[:-5])
    complaint(attest(desk, tmp_path, pack=pack_copy), 3, "layer-00000.safetensors")
    complaint(ucaudit("reconstruct", pack_copy), 3, "layer-00000.safetensors")


def test_a_pickle_in_the_pack(desk, tmp_path, pack_copy):
    (pack_copy / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    for ran in (
        attest(desk, tmp_path, pack=pack_copy),
        ucaudit("inspect", pack_copy),
        ucaudit("gate", pack_copy, *desk.gate),
    ):
        complaint(ran, 3, "pytorch_model.bin")


def test_a_link_out_of_the_pack(desk, tmp_path, pack_copy):
    (pack_copy / "innocent.json").symlink_to("/etc/hostname")
    complaint(attest(desk, tmp_path, pack=pack_copy), 3, "innocent.json")


def test_a_path_out_of_the_pack(pack_copy):
    manifest = json.loads((pack_copy / "manifest.json").read_text())
    manifest["files"][0]["path"] = "../../etc/hostname"
    (pack_copy / "manifest.json").write_text(json.dumps(manifest))
    complaint(ucaudit("reconstruct", pack_copy), 3)


def test_wrong_key_files(desk, tmp_path):
    complaint(attest(desk, tmp_path, key=desk.key.with_suffix(".pub")), 3, "public key")
    complaint(attest(desk, tmp_path, key=tmp_path / "absent.pem"), 3, "absent.pem")


def test_a_trust_file_that_names_another_key(desk, tmp_path):
    assert ucaudit("keygen", "--out", tmp_path, "--name", "x", "--no-password").code == 0
    trust = ("trust", "add", "--file", tmp_path / "trust.toml", "--principal", "x", "--key", tmp_path / "x.pub")
    assert ucaudit(*trust).code == 0
    ran = ucaudit("verify", desk.bundle, "--trust", tmp_path / "trust.toml")
    complaint(ran, 1, "no trusted key")
    assert "NOT AUTHENTIC" in ran.out


@pytest.mark.parametrize("name", ["attestation.dsse.json", "nll-pack.safetensors", "STATE", "README.txt"])
def test_an_edited_byte_in_the_bundle(desk, bundle_copy, name):
    path = bundle_copy / name
    data = bytearray(path.read_bytes())
    position = len(data) // 2
    data[position] = ord("A") if data[position] != ord("A") else ord("B")
    path.write_bytes(data)
    ran = ucaudit("verify", bundle_copy, "--trust", desk.root / "trust.toml", "--json")
    complaint(ran, 1, name)
    assert ran.json["authentic"] is False
    assert ran.json["error"]["code"] in ("signature-invalid", "digest-mismatch")


def test_a_report_alone_and_an_edited_report(desk, tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    trust = ("--trust", desk.root / "trust.toml")
    complaint(ucaudit("verify", tmp_path / "report.pdf", *trust), 3, "--bundle")
    ran = ucaudit("verify", tmp_path / "report.pdf", *trust, "--bundle", desk.bundle)
    complaint(ran, 1, "report.pdf")


def test_unwritable_output(desk, tmp_path):
    (tmp_path / "file").write_text("")
    complaint(attest(desk, tmp_path, out=tmp_path / "file" / "bundle"), 4, "cannot write")
    complaint(attest(desk, tmp_path, out=desk.bundle), 3, "not empty")


def test_another_corpus_than_the_policy_pins(desk, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(ratio=1.05).replace("[claims]", f'corpus_sha256 = "{"0" * 64}"\n[claims]'))
    complaint(attest(desk, tmp_path, policy=policy, corpus=desk.root / "text.txt"), 3, "pins sha-256")


def test_calibration_text_as_evaluation_text(desk, tmp_path):
    complaint(attest(desk, tmp_path, corpus=desk.root / "calibration.txt"), 3, "calibration")


def test_a_missing_extra(desk, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('no torch here', name='torch')\n")
    ran = ucaudit(
        "attest",
        desk.pack,
        "--reference",
        desk.reference,
        "--policy",
        desk.root / "policy.toml",
        "--key",
        desk.key,
        "--out",
        tmp_path / "out",
        PYTHONPATH=str(blocked),
    )
    complaint(ran, 4, "ucaudit[measure]")


def test_usage_errors(desk):
    complaint(ucaudit("atest"), 2, "did you mean attest")
    complaint(ucaudit("verify", desk.bundle), 2, "--trust")
    ran = ucaudit("verify", desk.bundle, "--json")
    assert ran.code == 2
    assert ran.json["error"]["code"] == "usage"


def test_failures_are_one_json_object_too(desk, tmp_path):
    ran = ucaudit("reconstruct", tmp_path / "absent", "--json")
    assert ran.code == 3
    assert ran.json["exitCode"] == 3


def test_abandoning_a_plan(desk, tmp_path):
    ledger = shutil.copytree(desk.ledger, tmp_path / "ledger")
    common = ("--ledger", ledger, "--key", desk.key)
    inputs = ("--reference", desk.reference, "--policy", desk.root / "policy.toml")
    assert ucaudit("plan", desk.pack, *inputs, *common, "--out", tmp_path / "plan.json").code == 0
    ran = ucaudit("plan", "abandon", tmp_path / "plan.json", "--reason", "the text was wrong", *common)
    assert ran.code == 0, ran.err
    ran = ucaudit("ledger", "export", "--ledger", ledger, "--format", "json")
    assert ran.code == 0
    assert "abandon" in ran.out


def test_policy_and_schema_and_doctor(tmp_path):
    assert ucaudit("policy", "init", "--out", tmp_path / "policy.toml", "--profile", "fda").code == 0
    assert "warning:" in ucaudit("policy", "check", tmp_path / "policy.toml").out
    complaint(ucaudit("policy", "init", "--out", tmp_path / "policy.toml"), 3, "never overwritten")
    (tmp_path / "policy.toml").write_text("[claims]\nppl_ratio_maximum = 1\n")
    complaint(ucaudit("policy", "check", tmp_path / "policy.toml"), 3, "did you mean ppl_ratio_max")
    assert "attestation" in ucaudit("schema").out.split()
    assert ucaudit("schema", "attestation").json["$id"].startswith("urn:ucaudit")
    complaint(ucaudit("schema", "nonsense"), 2, "pack-manifest")
    ran = ucaudit("doctor")
    assert ran.code == 0
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in extras["optional-dependencies"].keys() - {"all"}:
        assert f"extra {name} " in ran.out


def test_schemas_in_the_repository_are_current():
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, root / "scripts" / "schemas.py", "--check"], check=False).returncode == 0


def test_the_signed_record_fits_its_schema(desk):
    import base64

    import jsonschema

    envelope = json.loads((desk.bundle / "attestation.dsse.json").read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "attestation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(payload)
    manifest = json.loads((desk.pack / "manifest.json").read_text())
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "pack-manifest.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(manifest)


def test_gate_full_on_a_pack_that_no_longer_opens(desk, pack_copy):
    manifest = pack_copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-10])
    ran = ucaudit("gate", pack_copy, *desk.gate, "--full")
    complaint(ran, 1, "manifest.json: expected sha-256")
    assert "cannot be reconstructed any more" in " ".join(ran.out.split())
