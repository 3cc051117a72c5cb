"""scripts/setup.sh on machines that lack something, simulated by what stands on PATH; nothing is downloaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TOOLS = (
    "bash",
    "cat",
    "chmod",
    "dirname",
    "env",
    "flock",
    "grep",
    "head",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
    "tail",
    "uname",
)

# Python as a distribution ships it that splits off venv: everything runs but the two modules.
NO_VENV = """#!{bash}
case "$*" in *ensurepip*) exit 1 ;; esac
exec "{python}" "$@"
"""
# … and one whose answer to "are Pango and HarfBuzz here?" the test decides.
PANGO = """#!{bash}
if [ "${{1:-}}" = - ] && [ $# -eq 1 ]; then exit {pango}; fi
case "$*" in *ensurepip*) exit 0 ;; esac
exec "{python}" "$@"
"""


class Machine:
    """A copy of the set-up's files, and a PATH with only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.bin = folder / "clone", folder / "bin"
        self.bin.mkdir()
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.clone / name)
        shutil.copy2(ROOT / "pyproject.toml", self.clone)
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.bin / tool).symlink_to(found)

    def put(self, name: str, text: str, pango: str = "0") -> None:
        path = self.bin / name
        path.write_text(
            text.format(bash=shutil.which("bash"), python=sys.executable, pango=pango), encoding="utf-8"
        )
        path.chmod(0o755)

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.bin), "HOME": str(self.clone), "LC_ALL": "C.UTF-8", "UCAUDIT_TORCH": "cpu"}
        return subprocess.run(
            [str(self.clone / "scripts" / "setup.sh")],
            env={**env, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_python(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 4
    assert "error: no Python 3.11 or newer found" in done.stderr
    assert not (machine.clone / ".venv").exists()


def test_a_shim_that_only_complains_is_no_python(machine: Machine) -> None:
    machine.put("python3.11", "#!{bash}\nexit 127\n")
    assert machine.setup().returncode == 4


def test_a_named_python_must_work(machine: Machine) -> None:
    done = machine.setup(UCAUDIT_PYTHON="python9")
    assert done.returncode == 4
    assert "UCAUDIT_PYTHON=python9" in done.stderr


def test_an_unknown_torch_build_is_a_usage_error(machine: Machine) -> None:
    machine.put("python3", '#!{bash}\nexec "{python}" "$@"\n')
    done = machine.setup(UCAUDIT_TORCH="tpu")
    assert done.returncode == 2
    assert "UCAUDIT_TORCH=tpu is neither cpu nor cuda" in done.stderr


@pytest.mark.parametrize(
    ("python", "pango", "packages"),
    [
        (NO_VENV, "0", f"python3.{sys.version_info[1]}-venv"),
        (PANGO, "1", "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"),
    ],
)
def test_neither_root_nor_sudo(machine: Machine, python: str, pango: str, packages: str) -> None:
    machine.put("python3.11", python, pango=pango)
    machine.put("apt-get", "#!{bash}\necho must not run >&2\nexit 1\n")
    machine.put("id", "#!{bash}\necho 1000\n")
    done = machine.setup()
    assert done.returncode == 4
    assert "neither root nor a sudo without password" in done.stderr
    assert "sudo apt-get install -y --no-install-recommends" in done.stderr
    assert packages in done.stderr
    assert "must not run" not in done.stderr
    assert not (machine.clone / ".venv").exists()


@pytest.mark.parametrize(("manager", "package"), [("dnf", "pango"), ("apk", "pango"), ("brew", "pango")])
def test_other_package_managers_are_named_not_run(machine: Machine, manager: str, package: str) -> None:
    machine.put("python3.11", PANGO, pango="1")
    machine.put("id", "#!{bash}\necho 0\n")
    machine.put(manager, "#!{bash}\necho must not run >&2\nexit 1\n")
    done = machine.setup()
    assert done.returncode == 4
    assert f"hint: run: {manager}" in done.stderr
    assert package in done.stderr
    assert "must not run" not in done.stderr


@pytest.mark.parametrize(("uid", "prefix"), [("0", ""), ("1000", "sudo -n ")])
def test_apt_runs_with_root_or_passwordless_sudo(machine: Machine, uid: str, prefix: str) -> None:
    log = machine.clone / "log"
    machine.put("python3.11", NO_VENV)
    machine.put("id", f"#!{{bash}}\necho {uid}\n")
    machine.put("apt-get", f'#!{{bash}}\necho "apt-get $*" >>"{log}"\nexit 9\n')
    machine.put("sudo", f'#!{{bash}}\necho "sudo $*" >>"{log}"\nshift\nexec "$@"\n')
    (machine.bin / "true").symlink_to(str(shutil.which("true")))
    done = machine.setup()
    assert done.returncode == 4
    assert "apt-get could not install them" in done.stderr
    lines = log.read_text(encoding="utf-8").splitlines()
    assert f"{prefix}apt-get update -q" in lines
    assert "apt-get update -q" in lines


def test_an_unfinished_set_up_starts_over(machine: Machine) -> None:
    """The mark of an unfinished run wins over a stamp and over a half-made environment."""
    machine.put("python3.11", PANGO.replace("case", "case \"$*\" in '-m venv'*) exit 7 ;; esac\ncase"))
    venv = machine.clone / ".venv"
    venv.mkdir()
    (venv / ".ucaudit-underway").touch()
    (venv / ".ucaudit-ready").write_text("whatever", encoding="utf-8")
    (venv / "half").touch()
    done = machine.setup()
    assert "the last set-up did not finish, starting over" in done.stderr
    assert done.returncode == 4
    assert not (venv / "half").exists()
    assert not (venv / ".ucaudit-ready").exists()
    assert (venv / ".ucaudit-underway").exists()


@pytest.mark.slow
def test_a_second_set_up_of_this_checkout_is_silent() -> None:
    script = str(ROOT / "scripts" / "setup.sh")
    subprocess.run([script], capture_output=True, check=True, timeout=1200)
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
