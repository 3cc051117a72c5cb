"""Whatever is given in place of a file, there is one error line and one hint that fits it."""

import os

import pytest
from bundles import make_bundle


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def wrong(tmp_path):
    """Things that are not what was meant."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    (tmp_path / "text.toml").write_text("[")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def commands(thing, setting, honest):
    trust, key = ("--trust", setting.trust), ("--key", setting.root / "keys" / "signer.pem")
    saying = ("--name", "N", "--role", "validator", "--meaning", "review")
    return {
        "policy": ("policy", "check", thing),
        "trust": ("trust", "list", "--file", thing),
        "add": ("trust", "add", "--file", setting.root / "none.toml", "--key", thing, "--principal", "p"),
        "ledger": ("ledger", "verify", "--ledger", thing),
        "export": ("ledger", "export", "--ledger", thing),
        "countersign": ("countersign", honest, "--key", thing, *saying),
        "bound": ("bound", thing),
        "verify": ("verify", thing, *trust),
        "verify-trust": ("verify", honest, "--trust", thing),
        "verify-policy": ("verify", honest, *trust, "--policy", thing),
        "verify-pack": ("verify", honest, *trust, "--pack", thing),
        "report": ("report", thing, "--profile", "soc2", "--out", setting.root / "r.html"),
        "endorse": ("countersign", thing, *key, *saying),
        "inspect": ("inspect", thing),
        "floor": ("floor", thing, *key, "--ledger", setting.ledger, "--out", setting.root / "f"),
        "matrix": ("matrix", thing, *trust, "--out", setting.root / "site"),
        "matrix-ledger": ("matrix", honest, *trust, "--ledger", thing, "--out", setting.root / "site"),
        "matrix-claimed": ("matrix", honest, *trust, "--claimed", thing, "--out", setting.root / "site"),
    }  # fmt: skip


NAMES = tuple(
    commands(None, type("S", (), {"trust": None, "ledger": None, "root": __import__("pathlib").Path()}), None)
)


@pytest.mark.parametrize("thing", ["absent", "directory", "empty", "garbage", "text.toml", "pipe", "empty/below"])
@pytest.mark.parametrize("command", NAMES)
def test_one_error_and_one_hint(setting, honest, wrong, run, command, thing):
    ran = run(*commands(wrong / thing, setting, honest)[command])
    if command in ("policy", "trust", "verify-trust") and thing == "empty" and ran.code == 0:
        return  # an empty trust file trusts nobody
    found = ran.err.splitlines()
    errors = [line for line in found if line.startswith("ucaudit: error: ")]
    hints = [line for line in found if line.startswith("ucaudit: hint: ")]
    assert (len(errors), len(hints)) == (1, 1), ran.err
    assert ran.code in (1, 2, 3), ran.err


@pytest.mark.parametrize(
    ("command", "thing", "words"),
    [
        ("policy", "directory", "it is a directory: name a file in it"),
        ("policy", "pipe", "copy its content into a plain file"),
        ("policy", "text.toml", "policy init writes a commented policy"),
        ("verify-trust", "text.toml", "docs/trust.md shows a trust file"),
        ("ledger", "empty", "start one with ucaudit ledger init"),
        ("export", "garbage", "start one with ucaudit ledger init"),
        ("countersign", "garbage", "ucaudit keygen makes one"),
        ("add", "garbage", "give a .pub file"),
    ],
)
def test_the_hint_fits(setting, honest, wrong, run, command, thing, words):
    assert words in run(*commands(wrong / thing, setting, honest)[command]).err
