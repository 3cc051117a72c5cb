"""Two parties and a witness, with files only: a seed from outside, and a witnessed time in the evidence."""

from __future__ import annotations

import json
import shutil

import pytest

from .conftest import ucaudit

WITNESS = "witness.tests.invalid/w1"


@pytest.fixture
def place(desk, tmp_path):
    """A keeper with a ledger, and keys of an auditor and a witness who work elsewhere."""
    shutil.copytree(desk.ledger, tmp_path / "ledger")
    shutil.copy(desk.root / "trust.toml", tmp_path / "trust.toml")
    for name in ("auditor", "witness"):
        assert ucaudit("keygen", "--out", "keys", "--name", name, "--no-password", cwd=tmp_path).code == 0
    return tmp_path


def good(*words, place, **options):
    ran = ucaudit(*words, cwd=place, **options)
    assert ran.code == 0, ran.err
    return ran


def bad(code, *words, place, says):
    ran = ucaudit(*words, cwd=place)
    assert ran.code == code, ran.err + ran.out
    assert says in ran.err, ran.err


def common(desk):
    return (
        "--reference",
        desk.reference,
        "--policy",
        desk.root / "policy.toml",
        "--ledger",
        "ledger",
        "--key",
        desk.key,
    )


def make_plan(desk, place, *more):
    return good("plan", desk.pack, *common(desk), "--outside-seed", *more, "--out", "plan.json", place=place)


def start_witness(place):
    ran = good(
        "ledger", "witness", "--state", "witness", "--name", WITNESS, "--key", "keys/witness.pem", place=place
    )
    return ran.out.strip()


def cosign(place, old, *more):
    good("ledger", "prove", "--ledger", "ledger", "--old-size", old, "--out", "request", place=place)
    good(
        "ledger",
        "cosign",
        "--state",
        "witness",
        "--key",
        "keys/witness.pem",
        *more,
        "request",
        "--out",
        "cosigned",
        place=place,
    )


def ledger_vkey(place):
    return json.loads((place / "ledger" / "ledger.json").read_text())["vkey"]


def checks(ran):
    return {item["slug"]: item for item in ran.json["checks"]}


@pytest.mark.slow
def test_an_auditors_seed_and_a_witnessed_time(desk, place):
    made = make_plan(desk, place, "--perturbation", "rank 4 instead of 2")
    assert "waiting for an outside party's seed" in made.err
    listed = good("plan", "list", "--ledger", "ledger", place=place)
    assert "waiting-for-seed" in listed.out
    assert len(listed.out.splitlines()) == 2  # the desk's own plan is closed

    # the auditor, who has the plan and its proof only
    good("ledger", "prove", "--ledger", "ledger", "--envelope", "plan.json", "--out", "proof", place=place)
    contribute = ("plan", "contribute", "plan.json", "--name", "A. Auditor", "--key", "keys/auditor.pem")
    bad(3, *contribute[:-1], desk.key, "--out", "seed.json", place=place, says="signed by this key")
    bad(2, *contribute, "--proof", "proof", "--out", "seed.json", place=place, says="--vkey or --trust")
    bad(
        2,
        "plan",
        "contribute",
        "plan.json",
        "--key",
        "keys/auditor.pem",
        "--out",
        "seed.json",
        place=place,
        says="give either --name or --from-witness",
    )
    given = good(
        *contribute, "--proof", "proof", "--trust", "trust.toml", "--out", "seed.json", "--json", place=place
    )
    bad(3, *contribute, "--out", "seed.json", place=place, says="never overwritten")
    seed = given.json["seed"]

    # the keeper
    attest = ("attest", desk.pack, *common(desk), "--plan", "plan.json")
    bad(3, *attest, "--seed", "seed.json", "--out", "b", place=place, says="the seed is not in the ledger yet")
    good("ledger", "append", "--ledger", "ledger", "--key", desk.key, "seed.json", place=place)
    bad(3, *attest, "--out", "b", place=place, says="was contributed, entry 3, and is not given")
    good(*attest, "--seed", "seed.json", "--out", "bundle", place=place)

    good(
        "trust",
        "add",
        "--file",
        "trust.toml",
        "--key",
        "keys/auditor.pub",
        "--principal",
        "auditor",
        "--role",
        "auditor",
        "--predicate",
        "seed",
        place=place,
    )
    verified = good("verify", "bundle", "--trust", "trust.toml", "--json", place=place)
    found = checks(verified)
    for slug in ("seed", "seed-source", "seed-order", "seed-ledger", "draw", "plan", "plan-order", "ledger"):
        assert found[slug]["status"] == "pass", found[slug]
    assert f"drawn by seed {seed}" in found["draw"]["detail"]
    assert "perturbations: 1 planned" in found["plan"]["detail"]
    export = good("ledger", "export", "--ledger", "ledger", "--format", "json", place=place).json
    assert [(row["kind"], row["status"]) for row in export["rows"][2:]] == [
        ("plan", "closed"),
        ("seed", "recorded"),
        ("attestation", "planned"),
    ]

    # the witness, and the bundle with its time
    vkey = start_witness(place)
    bad(
        3,
        "ledger",
        "cosign",
        "--state",
        "witness",
        "--key",
        "keys/witness.pem",
        "proof",
        place=place,
        says="the first line is not like `old 12`",
    )
    cosign(place, 0, "--vkey", ledger_vkey(place))
    bad(2, "ledger", "attach", "--ledger", "ledger", "cosigned", place=place, says="--witness, or --trust")
    good("ledger", "attach", "--ledger", "ledger", "--witness", vkey, "cosigned", place=place)
    refresh = ("ledger", "refresh", "bundle", "--ledger", "ledger", "--key", desk.key)
    assert good(*refresh, "--json", place=place).json["replaced"] == [
        "ledger-proof",
        "plan-ledger-proof",
        "seed-ledger-proof",
    ]
    assert good(*refresh, "--json", place=place).json["replaced"] == []
    assert checks(good("verify", "bundle", "--trust", "trust.toml", "--json", place=place)).keys() == found.keys()
    good("trust", "add", "--file", "trust.toml", "--vkey", vkey, place=place)
    again = good("verify", "bundle", "--trust", "trust.toml", place=place)
    assert f"{WITNESS} had seen 5 entries by 20" in again.out.replace("\n      ", " ")
    found = checks(good("verify", "bundle", "--trust", "trust.toml", "--json", place=place))
    assert found["ledger-witness"]["status"] == "pass"
    assert "seen by 20" in found["claimed-time"]["detail"]


@pytest.mark.slow
def test_a_witnesss_cosignature_as_seed(desk, place):
    vkey = start_witness(place)
    make_plan(desk, place)
    take = ("plan", "contribute", "plan.json", "--from-witness", "--ledger", "ledger", "--key", desk.key)
    bad(3, *take, "--witness", vkey, "--out", "seed.json", place=place, says="no trusted witness cosigned")
    cosign(place, 0, "--vkey", ledger_vkey(place))
    good("ledger", "attach", "--ledger", "ledger", "--witness", vkey, "cosigned", place=place)
    good(*take, "--witness", vkey, "--out", "seed.json", place=place)
    good("ledger", "append", "--ledger", "ledger", "--key", desk.key, "seed.json", place=place)
    attest = ("attest", desk.pack, *common(desk), "--plan", "plan.json", "--seed", "seed.json")
    good(*attest, "--out", "bundle", place=place)
    good("trust", "add", "--file", "trust.toml", "--vkey", vkey, place=place)
    found = checks(good("verify", "bundle", "--trust", "trust.toml", "--json", place=place))
    assert found["seed-source"]["status"] == "pass"
    assert "cosigning the plan at 20" in found["seed-source"]["detail"]
    assert found["plan-ledger-witness"]["status"] == "pass"


@pytest.mark.slow
def test_a_plan_whose_seed_never_came(desk, place):
    make_plan(desk, place)
    good("attest", desk.pack, *common(desk), "--plan", "plan.json", "--out", "bundle", place=place)
    found = checks(good("verify", "bundle", "--trust", "trust.toml", "--json", place=place))
    assert found["seed"]["status"] == "warn"
    assert "which was not contributed, done 42" in found["plan"]["detail"]
    bad(
        1,
        "gate",
        desk.pack,
        "--evidence",
        "bundle",
        "--policy",
        desk.root / "policy.toml",
        "--trust",
        "trust.toml",
        place=place,
        says="which was not contributed",
    )


def test_a_rewritten_ledger_meets_the_witness(desk, place):
    vkey = start_witness(place)
    cosign(place, 0, "--vkey", ledger_vkey(place))
    good("ledger", "attach", "--ledger", "ledger", "--witness", vkey, "cosigned", place=place)
    good("ledger", "init", "--ledger", "forged", "--origin", "tests.invalid/log", "--key", desk.key, place=place)
    for name in ("plan.dsse.json", "attestation.dsse.json"):  # the same evidence, entered later
        good("ledger", "append", "--ledger", "forged", "--key", desk.key, desk.bundle / name, place=place)
    (place / "request").unlink()
    good("ledger", "prove", "--ledger", "forged", "--old-size", 2, "--out", "request", place=place)
    bad(
        1,
        "ledger",
        "cosign",
        "--state",
        "witness",
        "--key",
        "keys/witness.pem",
        "request",
        place=place,
        says="two different trees of 2 entries: not cosigned",
    )
    bad(
        1,
        "ledger",
        "verify",
        "--ledger",
        "forged",
        "--since",
        "cosigned",
        place=place,
        says="history was rewritten since the earlier checkpoint",
    )
    good("ledger", "prove", "--ledger", "forged", "--index", 0, "--out", "forged-proof", place=place)
    verify = ("ledger", "verify", "--proof")
    good(*verify, "forged-proof", "--trust", "trust.toml", place=place)  # without a witness it looks right
    ran = good("ledger", "verify", "--ledger", "ledger", "--trust", "trust.toml", "--witness", vkey, place=place)
    assert f"{WITNESS} had seen 2 entries by 20" in ran.out
    assert "signed by the given key" in ran.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ledger", "verify"), 2, "give either --ledger or --proof"),
        (("ledger", "verify", "--proof", "absent", "--vkey", "x"), 3, "absent: no such file"),
        (("ledger", "verify", "--proof", "trust.toml"), 3, "needs the ledger's verifier key"),
        (("ledger", "verify", "--proof", "trust.toml", "--trust", "trust.toml"), 3, "the first line is not"),
        (("ledger", "prove", "--ledger", "ledger", "--old-size", "9"), 3, "no consistency proof from 9 to 2"),
        (("ledger", "prove", "--ledger", "ledger", "--index", "0", "--size", "7"), 3, "no checkpoint of 7 entries"),
        (
            ("ledger", "prove", "--ledger", "ledger", "--index", "1", "--size", "1"),
            3,
            "entry 1 is not in the checkpoint of 1 entries",
        ),
        (("ledger", "prove", "--ledger", "ledger", "--index", "0", "--witness", "x"), 3, "not a verifier key"),
        (("ledger", "repair", "--ledger", "nowhere"), 3, "not a ledger"),
        (
            ("ledger", "cosign", "--state", "nowhere", "--key", "keys/witness.pem", "x"),
            3,
            "not a witness's directory",
        ),
        (("ledger", "witness", "--state", "w", "--name", "a b", "--key", "keys/witness.pem"), 3, "not usable as"),
        (("plan", "list", "--ledger", "nowhere"), 3, "not a ledger"),
        (
            ("plan", "contribute", "trust.toml", "--name", "A", "--key", "keys/auditor.pem", "--out", "o"),
            3,
            "not json",
        ),
    ],
)
def test_what_goes_wrong(desk, place, words, code, says):
    bad(code, *words, place=place, says=says)
