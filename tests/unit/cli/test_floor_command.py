"""``ucaudit floor`` as it is typed: exit codes of the contract, one error, one hint."""

from __future__ import annotations

import pytest
from floors import make_floor

GOOD = """
name = "p"
[model]
path = "model"
[measurement]
corpus = "text.txt"
[floor]
metric = "pplRatio"
margin = 0.001
[baseline]
calibration = "calibration.txt"
[[perturbation]]
name = "rank-32"
direction = "capacity"
rank = 32
"""


@pytest.fixture
def floor(setting, run, tmp_path):
    def command(text, *words):
        (tmp_path / "p.toml").write_text(text)
        key = setting.root / "keys" / "signer.pem"
        return run(
            "floor", tmp_path / "p.toml", "--ledger", setting.ledger, "--key", key, "--out", tmp_path / "f", *words
        )

    return command


@pytest.mark.parametrize(
    ("text", "words", "code", "said", "hint"),
    [
        (GOOD.replace("margin", "margn"), (), 3, "unknown setting [floor] margn", "did you mean margin"),
        (
            GOOD.replace("rank = 32", "rank = 16"),
            (),
            3,
            "equal to the baseline: rank is 16 in both",
            "another rank",
        ),
        (
            GOOD.replace("rank = 32", "rank = 32\nbits = 4"),
            (),
            3,
            "differs from the baseline in bits",
            "leave bits out",
        ),
        (GOOD, (), 3, "text.txt: no such file", "check the path"),
        (GOOD, ("--dry-run",), 3, "text.txt: no such file", "check the path"),
        (GOOD, ("--device", "mps"), 4, "mps is refused", "--device cpu"),
        (GOOD, ("--threads", "0"), 2, "0 is not in the range", "ucaudit floor --help"),
    ],
)
def test_refused(floor, text, words, code, said, hint):
    ran = floor(text, *words)
    assert ran.code == code, ran.err
    assert said in ran.err and hint in ran.err and ran.out == ""


def test_refused_in_json_too(floor):
    ran = floor(GOOD.replace("pplRatio", "luck"), "--json")
    assert ran.code == 3 and ran.json["error"]["code"] == "malformed-protocol" and ran.json["exitCode"] == 3


@pytest.mark.parametrize(
    ("levels", "code", "word"),
    [({}, 0, "SUPPORTED"), ({"rank-4": 0.005}, 1, "REFUTED"), ({"rank-4": 0.0091}, 5, "INCON")],
)
def test_bound_exits_by_the_verdict_and_verify_by_authenticity(setting, run, tmp_path, levels, code, word):
    bundle = make_floor(setting, tmp_path / "floor", levels=levels)
    ran = run("bound", bundle)
    assert ran.code == code and word in ran.out and max(map(len, ran.out.splitlines())) <= 80
    ran = run("verify", bundle, "--trust", setting.trust)
    assert ran.code == 0 and word in ran.out and max(map(len, ran.out.splitlines())) <= 80


def test_the_gate_takes_no_floor_for_evidence_of_a_pack(setting, run, tmp_path, policy):
    """A floor has nothing in it that a policy could object to: it must not get as far as that."""
    bundle = make_floor(setting, tmp_path / "floor")
    ran = run("gate", setting.pack, "--evidence", bundle, "--policy", policy(), "--trust", setting.trust)
    assert ran.code == 3 and "not an attestation" in ran.err and "ADMITTED" not in ran.out
