"""The lock files, the metadata and the set-up script fit together."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
HASHED = ("lock.txt", "base.txt", "dev.txt", "torch.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"torch", "numpy", "transformers", "jinja2", "weasyprint", "safetensors", "gguf", "pyarrow"}


def entries(name: str) -> list[str]:
    """Logical lines of a requirements file, comments gone."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def pins(name: str) -> dict[str, Requirement]:
    found = [Requirement(line.split("--hash")[0].strip()) for line in entries(name)]
    assert len({canonicalize_name(one.name) for one in found}) == len(found)
    return {canonicalize_name(one.name): one for one in found}


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", HASHED)
def test_every_entry_is_pinned_and_hashed_and_names_no_place(name: str) -> None:
    for line in entries(name):
        assert re.fullmatch(r"[a-z0-9.-]+==[^ ;]+( ; [^@]*?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.name)
def test_no_index_and_no_local_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|(^|\s)/\w", text, re.MULTILINE)


def test_the_locks_agree_on_every_version() -> None:
    lock = pins("lock.txt")
    for name in ("base.txt", "dev.txt", "torch.txt"):
        for package, pin in pins(name).items():
            if package in lock:
                assert version(pin) == version(lock[package]), f"{package} in {name}"


def test_torch_is_only_in_its_own_files_and_at_one_version() -> None:
    assert not {"torch", "triton"} & (set(pins("lock.txt")) | set(pins("base.txt")) | set(pins("dev.txt")))
    general = version(pins("torch.txt")["torch"])
    assert version(pins("torch.in")["torch"]) == general
    assert version(pins("torch-cpu.txt")["torch"]) == f"{general}+cpu"


def wanted_by(extras: tuple[str, ...]) -> list[Requirement]:
    project = PROJECT["project"]
    lines = project["dependencies"] + [
        line
        for extra in extras
        for line in project["optional-dependencies"][extra]
        if not line.startswith("ucaudit[")
    ]
    return [Requirement(line) for line in lines]


def test_the_extra_all_names_every_other() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all"}


def test_the_lock_satisfies_the_metadata() -> None:
    lock = pins("lock.txt") | {"torch": pins("torch.txt")["torch"]}
    for requirement in wanted_by(tuple(PROJECT["project"]["optional-dependencies"])):
        pin = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pin)), f"{requirement} is locked at {pin}"
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(version(lock[requirement.name]))


def test_the_base_install_is_light() -> None:
    base = pins("base.txt")
    assert not HEAVY & set(base)
    assert {canonicalize_name(one.name) for one in wanted_by(())} <= set(base)
    assert len(base) < 15


def test_the_lock_is_complete_where_it_runs() -> None:
    """With --no-deps nothing fills a gap, so every installed dependency of a locked package is locked."""
    from importlib.metadata import PackageNotFoundError, requires

    lock = pins("lock.txt") | pins("torch.txt")
    environment = {**default_environment(), "extra": ""}
    active = [name for name, pin in pins("lock.txt").items() if not pin.marker or pin.marker.evaluate()]
    seen = 0
    for name in active:
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # a locked package that this environment was not built with
            continue
        seen += 1
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert canonicalize_name(requirement.name) in lock, f"{name} needs {requirement}"
    assert seen > len(active) * 0.9


@pytest.mark.parametrize("script", ["scripts/setup.sh", "scripts/lock.sh", ".ci/run", ".ci/tools"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_the_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
