"""The gate where teams work: the hooks run by the real pre-commit, a verdict read by openssl and jq."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bundles import make_bundle, make_setting

from ucaudit.core.digest import FileManifest
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import generate, load_signer
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.interop.svr import signed_verdict

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
BUDGET = 300


def git(place: Path, *words: str) -> None:
    name = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], cwd=place, check=True, capture_output=True, timeout=60)


def snapshot(place: Path) -> Path:
    """What git has or would take of this clone, as a repository of its own with one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("fixtures/models/", "docs/images/", "tests/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    git(place, "init", "-q", "-b", "main")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "snapshot")
    return place


def test_pre_commit_runs_the_hooks(oracle_env, tmp_path) -> None:
    program = oracle_env("pre-commit", ["pre-commit==4.7.0"], budget=BUDGET) / "bin" / "pre-commit"
    (source := tmp_path / "ucaudit").mkdir()
    snapshot(source)
    (shop := tmp_path / "shop").mkdir()
    shutil.copytree(FIXTURES / "pack", shop / "models" / "tiny")
    for name in ("policy.toml", "trust.toml"):
        shutil.copy(FIXTURES / name, shop / name)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True
    ).stdout
    (shop / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {source.as_uri()}\n    rev: {head.strip()}\n    hooks:\n      - id: ucaudit-gate\n"
        "        args: [--each, models, --policy, policy.toml, --trust, trust.toml]\n      - id: ucaudit-policy\n"
    )
    git(shop, "init", "-q", "-b", "main")
    git(shop, "add", "-A")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    environment |= {"PRE_COMMIT_HOME": str(tmp_path / "home"), "PRE_COMMIT_COLOR": "never"}

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [program, "run", "--all-files"],
            cwd=shop,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BUDGET,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = run()
    assert code == 1 and re.search(r"^ucaudit gate\.+Failed$", said, re.MULTILINE), said
    assert "tiny  REFUSED  policy.toml  evidence" in said
    assert re.search(r"^ucaudit policy check\.+Passed$", said, re.MULTILINE), said
    shutil.copytree(FIXTURES / "bundle", shop / "models" / "tiny.evidence")
    git(shop, "add", "-A")
    code, said = run()
    assert code == 0, said
    (shop / "policy.toml").write_text("[claims]\nppl_ratio_mx = 1.0\n")
    git(shop, "add", "-A")
    code, said = run()
    assert code == 1 and said.count("did you mean") >= 1


def test_openssl_and_jq_read_a_verdict_as_the_page_says(tmp_path, absent) -> None:
    """The commands of docs/gate.md, which know nothing of this project's code."""
    for tool in ("openssl", "jq", "base64"):
        if shutil.which(tool) is None:
            absent(tool)
    setting = make_setting(tmp_path / "setting")
    bundle = open_bundle(make_bundle(setting, tmp_path / "bundle"))
    result = verify_bundle(bundle, load_trust(setting.trust))
    files: FileManifest = bundle.pack_manifest()
    private, public, _ = generate(tmp_path / "keys", "gate", password=None)
    envelope = signed_verdict(result, files, (("policy.toml", "0" * 64),), load_signer(str(private)))
    (tmp_path / "v.json").write_bytes(envelope.raw)
    shutil.copy(public, tmp_path / "gate.pub")
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    script = next(block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "openssl" in block)

    def run() -> int:
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=False
        ).returncode

    assert run() == 0
    document = json.loads(envelope.raw)
    payload = base64.b64decode(document["payload"]).replace(b"UCAUDIT_LEDGER_PROVEN", b"UCAUDIT_LEDGER_PR0VEN")
    (tmp_path / "v.json").write_text(json.dumps(document | {"payload": base64.b64encode(payload).decode()}))
    assert run() != 0
    # Without the one property, a signed verdict is a refusal.
    result.checks[0] = type(result.checks[0])("x", "fail", "x", "x")
    (tmp_path / "v.json").write_bytes(signed_verdict(result, files, (), load_signer(str(private))).raw)
    assert run() != 0


def test_the_statement_is_one_that_in_totos_own_library_accepts(oracle_env, tmp_path) -> None:
    python = (
        oracle_env("in-toto-attestation", ["in-toto-attestation==0.9.3", "protobuf<5"], budget=BUDGET)
        / "bin"
        / "python"
    )
    setting = make_setting(tmp_path / "setting")
    bundle = open_bundle(make_bundle(setting, tmp_path / "bundle"))
    result = verify_bundle(bundle, load_trust(setting.trust))
    envelope = signed_verdict(result, bundle.pack_manifest(), (("policy.toml", "0" * 64),), setting.signer)
    (tmp_path / "payload.json").write_bytes(envelope.payload)
    script = (
        "import sys, json\n"
        "from google.protobuf.json_format import Parse\n"
        "from in_toto_attestation.v1 import statement_pb2, resource_descriptor_pb2\n"
        "from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor\n"
        "from in_toto_attestation.v1.statement import Statement\n"
        "text = open(sys.argv[1]).read()\n"
        "message = Parse(text, statement_pb2.Statement())\n"
        "Statement.copy_from_pb(message).validate()\n"
        "for item in json.loads(text)['predicate']['verifier']['policies']:\n"
        "    found = Parse(json.dumps(item), resource_descriptor_pb2.ResourceDescriptor())\n"
        "    ResourceDescriptor.copy_from_pb(found).validate()\n"
        "print(message.predicate_type, len(message.subject))\n"
    )
    done = subprocess.run(
        [python, "-c", script, tmp_path / "payload.json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["https://in-toto.io/attestation/svr/v0.2", "5"]
