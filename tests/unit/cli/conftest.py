"""Commands run in this process, on bundles of made-up values: quick, and without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from bundles import Setting, make_setting

from ucaudit.cli.main import main


@dataclass
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    def check(self, slug):
        """The checks of one name, of a ``--json`` run."""
        return [item for item in self.json["checks"] if item["slug"] == slug]


@pytest.fixture
def run(capsys):
    def command(*words) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(stopped.value.code, captured.out, captured.err)

    return command


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture
def policy(tmp_path):
    """Writes a policy of a few lines; returns its path."""

    def write(gate="", claims="", measurement="", extra="") -> Path:
        path = tmp_path / "policy.toml"
        path.write_text(
            f"[measurement]\nn = 30\nseq_len = 8\n{measurement}\n[claims]\nppl_ratio_max = 1.0125\n{claims}\n"
            f"[gate]\n{gate}\n{extra}\n"
        )
        return path

    return write
