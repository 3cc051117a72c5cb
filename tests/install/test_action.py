"""The GitHub action, its own installation included: on a machine that has nothing but Python."""

import os
from pathlib import Path

import pytest
from transcripts import run_action

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"


def test_it_installs_what_it_needs_and_nothing_heavy(tmp_path: Path) -> None:
    place = tmp_path / "repository"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UCAUDIT"))}
    given = {
        "packs": FIXTURES / "pack",
        "evidence": FIXTURES / "bundle",
        "policy": FIXTURES / "policy.toml",
        "trust": FIXTURES / "trust.toml",
    }
    installed, ran = run_action(given, place, environment)
    assert installed.code == 0, installed.log
    assert (ran.code, ran.outputs["verdict"]) == (0, "admitted"), ran.log
    libraries = next((tmp_path / "repository.runner" / "ucaudit-gate" / "lib").glob("python*")) / "site-packages"
    assert not any((libraries / name).exists() for name in ("torch", "numpy", "transformers"))
