"""A wheel built from what git would ship, and a clean environment that holds it without extras."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*words: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; its output goes into the failure message if it fails."""
    command = [str(word) for word in words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **(env or {})}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run(*words, cwd=…, env=…)``: run a command that must succeed."""
    return _run


@pytest.fixture(scope="session")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files git has or would take: in a fresh clone, exactly the clone."""
    target = tmp_path_factory.mktemp("source") / "ucaudit"
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def wheel(clean_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in isolation, so that `build-system.requires` is shown to be complete, with the locked versions."""
    folder = tmp_path_factory.mktemp("wheel")
    lock = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[a-z0-9.-]+==[^ ;]+", lock, re.MULTILINE)), encoding="utf-8")
    _run(
        *(sys.executable, "-m", "pip", "-qq", "wheel", "--no-deps", "--wheel-dir", folder, clean_copy),
        cwd=folder,
        env={"PIP_CONSTRAINT": str(constraints), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (built,) = folder.glob("ucaudit-*.whl")
    return built


@pytest.fixture(scope="session")
def light_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with ucaudit's base install, every dependency checked by hash."""
    folder = tmp_path_factory.mktemp("light")
    _run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-deps")
    _run(*pip, "--require-hashes", "-r", ROOT / "requirements" / "base.txt", cwd=folder)
    _run(*pip, "--no-index", wheel, cwd=folder)
    _run(python, "-m", "pip", "check", cwd=folder)
    return python.parent
