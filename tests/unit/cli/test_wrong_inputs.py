"""Whatever is given in place of a file, there is one error line and one hint that fits it."""

import ctypes
import os
import stat

import pytest
from bundles import make_bundle


@pytest.fixture(scope="module")
def honest(setting):
    (setting.root / "rules.toml").write_text(
        "[measurement]\nn = 30\nseq_len = 8\n[claims]\nppl_ratio_max = 1.0125\n"
    )
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


@pytest.fixture
def plain_user():
    """Permissions count here, even for root: two capabilities of this thread are put aside for the while."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low words, then the high ones
    assert libc.capget(header, held) == 0
    before = held[0]
    held[0] = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, held) == 0
    yield
    held[0] = before
    assert libc.capset(header, held) == 0


def commands(thing, setting, honest):
    trust, key = ("--trust", setting.trust), ("--key", setting.root / "keys" / "signer.pem")
    rules = ("--policy", setting.root / "rules.toml")
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
        "gate": ("gate", thing, *rules, *trust),
        "gate-each": ("gate", "--each", thing, *rules, *trust),
        "gate-list": ("gate", "--list", thing, *rules, *trust),
        "gate-evidence": ("gate", setting.pack, "--evidence", thing, *rules, *trust),
        "matrix": ("matrix", thing, *trust, "--out", setting.root / "site"),
        "matrix-ledger": ("matrix", honest, *trust, "--ledger", thing, "--out", setting.root / "site"),
        "matrix-claimed": ("matrix", honest, *trust, "--claimed", thing, "--out", setting.root / "site"),
    }  # fmt: skip


NAMES = tuple(
    commands(
        None,
        type("S", (), {"trust": None, "ledger": None, "pack": None, "root": __import__("pathlib").Path()}),
        None,
    )
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


@pytest.mark.parametrize("thing", ["directory", "empty", "directory/below"])
@pytest.mark.parametrize("command", NAMES)
def test_what_may_not_be_read_is_a_wrong_input(setting, honest, wrong, run, plain_user, command, thing):
    place = wrong / thing.split("/")[0]
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(0)
    try:
        ran = run(*commands(wrong / thing, setting, honest)[command])
    finally:
        place.chmod(mode)
    found = ran.err.splitlines()
    assert ran.code == 3, ran.err
    assert len([line for line in found if line.startswith("ucaudit: error: ")]) == 1
    assert len([line for line in found if line.startswith("ucaudit: hint: ")]) == 1


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
        ("bound", "absent", "give a bundle, its directory or .zip, or the directory that ucaudit measure wrote"),
        ("bound", "directory", "give a bundle, its directory or .zip, or the directory that ucaudit measure wrote"),
    ],
)
def test_the_hint_fits(setting, honest, wrong, run, command, thing, words):
    assert words in run(*commands(wrong / thing, setting, honest)[command]).err
