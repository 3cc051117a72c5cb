"""``ucaudit ledger``, as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from bundles import make_bundle, make_setting, make_values

from ucaudit.cli.main import main
from ucaudit.evidence import bundle as names
from ucaudit.evidence.ledger import Ledger, verify_proof


@dataclass
class Desk:
    """A directory with a key, envelopes, and a way to run commands."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def key(self) -> str:
        return str(self.root / "keys" / "signer.pem")

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def ledger(self) -> Path:
        return self.root / "own"

    def run(self, command: str, *words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["ledger", command, "--ledger", str(self.ledger), *map(str, words)])
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    def start(self) -> str:
        code, out, _ = self.run("init", "--origin", "example.com/evidence", "--key", self.key)
        assert code == 0
        return out.strip()

    def enter(self, name: str) -> tuple[int, str, str]:
        return self.run("append", "--key", self.key, self.bundle / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    setting = make_setting(tmp_path_factory.mktemp("ledger-cli"))
    make_bundle(setting, setting.root / "bundle", values=make_values(drift=0.1))
    return setting.root


@pytest.fixture
def desk(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    for name in ("keys", "bundle"):
        (tmp_path / name).symlink_to(root / name)
    return Desk(tmp_path, capsys)


def test_from_start_to_proof(desk: Desk) -> None:
    vkey = desk.start()
    assert vkey.startswith("example.com/evidence+")
    code, out, _ = desk.enter(names.PLAN)
    assert (code, out) == (0, "entry 0 of 1 in example.com/evidence\n")
    _, kept, _ = desk.run("checkpoint")
    (desk.root / "kept").write_text(kept)
    code, out, _ = desk.run("append", "--json", "--key", desk.key, desk.bundle / names.ATTESTATION)
    document = json.loads(out)
    assert (code, document["index"], document["size"], document["added"]) == (0, 1, 2, True)

    code, out, err = desk.run("verify", "--since", desk.root / "kept", "--vkey", vkey)
    assert code == 0
    assert "signed by the given key" in out
    assert "the ledger extends the checkpoint of 1 entries that was kept" in out
    assert "3 signed checkpoints, each extended by the next" in out
    assert err == ""
    code, out, err = desk.run("verify")
    assert code == 0
    assert "not compared with an earlier checkpoint" in out
    assert "without --vkey or --trust this shows only that the ledger agrees with itself" in err

    code, printed, _ = desk.run("prove", "--index", 1)
    assert code == 0
    target = desk.root / "ledger-proof"
    code, out, _ = desk.run("prove", "--envelope", desk.bundle / names.ATTESTATION, "--out", target)
    assert (code, out) == (0, f"{target}\n")
    assert target.read_text() == printed
    assert verify_proof(target.read_bytes(), None, vkey).index == 1


def test_entering_twice_changes_nothing(desk: Desk) -> None:
    desk.start()
    desk.enter(names.ATTESTATION)
    code, out, err = desk.enter(names.ATTESTATION)
    assert (code, out) == (0, "entry 0 of 1 in example.com/evidence\n")
    assert "entered before; nothing was added" in err


def test_the_population(desk: Desk) -> None:
    desk.start()
    desk.enter(names.PLAN)
    code, out, err = desk.run("export")
    [row] = csv.DictReader(io.StringIO(out))
    assert (code, row["kind"], row["status"]) == (0, "plan", "open")
    assert "1 of 1 entries; plans: 1 open, 0 closed, 0 abandoned; unreadable: 0" in err
    desk.enter(names.ATTESTATION)
    target = desk.root / "population.csv"
    code, out, _ = desk.run("export", "--out", target, "--quiet")
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert (code, out) == (0, f"{target}\n")
    assert [(row["kind"], row["determination"], row["status"]) for row in rows] == [
        ("plan", "", "closed"),
        ("attestation", "fail", "planned"),
    ]
    code, out, _ = desk.run("export", "--format", "json", "--from", "2020-01-01", "--to", "2020-12-31")
    document = json.loads(out)
    complete = document["completeness"]
    assert (code, document["rows"], complete["treeSize"], complete["entriesInPeriod"]) == (0, [], 2, 0)
    assert (complete["from"], complete["to"]) == ("2020-01-01T00:00:00Z", "2020-12-31T23:59:59Z")
    assert json.loads((desk.root / "population.csv.completeness.json").read_text())["gaps"] == []


def test_a_rewritten_ledger(desk: Desk) -> None:
    desk.start()
    desk.enter(names.PLAN)
    (desk.root / "kept").write_bytes((desk.ledger / "checkpoint").read_bytes())
    (desk.ledger / "tile" / "entries" / "000.p" / "1").write_bytes(b"\x00\x01x")
    code, out, err = desk.run("verify", "--json", "--since", desk.root / "kept")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "ledger-inconsistent"
    assert "entry 0 does not have the hash in its tile" in err
    code, _, _ = desk.run("export")
    assert code == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("prove",), 2, "give either --index, --envelope or --old-size"),
        (("prove", "--index", "0", "--envelope", "x"), 2, "give either --index, --envelope or --old-size"),
        (("prove", "--index", "-1"), 2, "-1 is not in the range"),
        (("prove", "--index", "5"), 3, "no entry 5: the ledger has 0"),
        (("prove", "--envelope", "absent"), 3, "absent: no such file"),
        (("verify", "--since", "absent"), 3, "absent: no such file"),
        (("verify", "--vkey", "nonsense"), 3, "not a verifier key"),
        (("export", "--from", "yesterday"), 2, "not a day like 2026-01-31"),
        (("export", "--to", "2026-02-30"), 2, "not a day like 2026-01-31"),
        (("export", "--from", "2026-02-02", "--to", "2026-02-01"), 2, "--from is later than --to"),
        (("init", "--origin", "a b", "--key", "KEY"), 3, "not usable as a ledger's origin"),
        (("init", "--origin", "a", "--key", "KEY"), 3, "the directory is not empty"),
        (("init", "--origin", "a", "--key", "absent"), 3, "absent: no such file"),
        (("append", "--key", "KEY", "absent"), 3, "absent: no such file"),
        (("append", "--key", "KEY", "KEY"), 3, "not json"),
    ],
)
def test_what_goes_wrong(desk: Desk, words: tuple[str, ...], code: int, message: str) -> None:
    desk.start()
    given = [desk.key if word == "KEY" else word for word in words]
    found, _, err = desk.run(*given)
    assert (found, message in err) == (code, True), err


def test_it_names_what_is_not_there(desk: Desk) -> None:
    code, _, err = desk.run("verify")
    assert code == 3
    assert "not a ledger" in err
    assert "ucaudit ledger init" in err
    desk.start()
    code, _, err = desk.run("prove", "--envelope", desk.bundle / names.ATTESTATION)
    assert code == 3
    assert "no entry for envelope" in err


def test_a_closed_bundle_statement_is_refused(desk: Desk) -> None:
    desk.start()
    code, _, err = desk.enter(names.CLOSING)
    assert code == 3
    assert "a bundle statement is not entered in a ledger" in err
    assert Ledger.open(desk.ledger).size == 0


def test_the_library_is_light() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'jinja2', 'weasyprint', 'safetensors'}"
    code = f"import sys, ucaudit.evidence.ledger, ucaudit.cli.cmd_ledger; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "set()"
