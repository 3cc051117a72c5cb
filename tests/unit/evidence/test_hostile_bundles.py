"""Every bundle of fixtures/hostile/bundles ends as its case says, soon, in little memory, without a traceback."""

import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_bundles import GOOD, HOSTILE, lay, load_cases

from ucaudit.cli.main import main

CASES = load_cases()
CLASSES = {  # of the record's attack classes, those that a bundle can carry
    "verified-but-wrong predicate",
    "evidence not bound to the artifact",
    "payload-type confusion",
    "second-signature confusion",
    "key confusion",
    "duplicate JSON keys",
    "NaN, surrogates, encoding",
    "over-deep nesting",
    "endless data",
    "path escape and links",
    "archives",
    "replay",
    "back-dating",
    "schema downgrade",
    "forged per-token files",
    "figures that do not follow",
    "report edited",
    "file added or removed",
    "ledger proof",
}


def run(laid, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(list(laid.words))
    captured = capsys.readouterr()
    return stopped.value.code, json.loads(captured.out), captured.err


@pytest.mark.parametrize("name", CASES)
def test_hostile_bundle(name, tmp_path, capsys):
    laid = lay(name, tmp_path)
    expect = laid.case["expect"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    code, document, err = run(laid, capsys)
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert code == expect["exit"], (document, err)
    assert document["exitCode"] == code
    error = document.get("error")
    assert (error or {}).get("code") == expect.get("code"), document
    if "check" in expect:
        failed = {item["slug"] for item in document["checks"] if item["status"] == "fail"}
        assert expect["check"] in failed, failed
    if error:
        # No path of this machine, no control character, one line.
        assert error["message"].isprintable() and not error["message"].endswith(".")
        assert "Traceback" not in err
    assert all(character.isprintable() or character == "\n" for character in err)
    assert took < (2.0 if code == 0 else 1.5), took  # 1 s is the promise; the margin is for a busy machine
    assert grown < 200 << 10, f"{grown} KiB"


def test_every_class_has_a_case():
    assert {case["class"] for case in CASES.values()} == CLASSES | {"none"}


def test_every_directory_has_a_case():
    directories = {path.name for path in HOSTILE.iterdir() if path.is_dir()}
    assert directories <= set(CASES)
    for name, case in CASES.items():
        changes = {"remove", "links", "grow", "directories", "fifos", "fill", "zip", "trust", "pack", "command"}
        assert name == "good" or name in directories or changes & set(case), name


def test_what_is_refused_is_refused_for_its_own_flaw():
    """Every case differs from the good bundle, and no two are the same."""
    seen = {}
    for name, case in CASES.items():
        files = sorted((HOSTILE / name).iterdir()) if (HOSTILE / name).is_dir() else []
        content = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
        rest = {key: value for key, value in case.items() if key not in ("class", "attack", "expect")}
        mark = json.dumps([content, rest], sort_keys=True)
        assert mark not in seen, (name, seen[mark])
        seen[mark] = name


def test_the_script_writes_what_is_here(tmp_path):
    """The fixtures are what their maker makes: nobody edits one by hand."""
    root = Path(__file__).parents[3]
    program = f"""
import sys; sys.path.insert(0, {str(root / "fixtures")!r})
import make_hostile_bundles as maker, pathlib
maker.OUT = pathlib.Path({str(tmp_path)!r}) / "out"
maker.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def tree(base):
        return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}

    assert tree(tmp_path / "out") == tree(HOSTILE)


def test_the_good_bundle_is_complete():
    from ucaudit.evidence import bundle as names

    present = {path.name for path in GOOD.iterdir()}
    assert present >= {
        names.ATTESTATION,
        names.SIGSTORE,
        names.CHAIN,
        names.CLOSING,
        names.PLAN,
        names.LEDGER_PROOF,
    }
