"""Importing a light room, or any module of the command line, loads no heavy library: seen in sys.modules."""

import json
import pkgutil
import subprocess
import sys
from functools import cache

import pytest

import ucaudit
import ucaudit.cli
import ucaudit.core
import ucaudit.evidence

HEAVY = ("torch", "numpy", "transformers", "jinja2", "weasyprint", "safetensors", "gguf", "pyarrow", "numba")

# Imports each module in turn, and notes which heavy libraries each one brought in.
PROBE = """
import importlib, json, sys
names, heavy = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = {}
for name in names:
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except ImportError as error:
        found[name] = [str(error)]
        continue
    found[name] = [library for library in heavy if library in sys.modules and library not in before]
print(json.dumps(found))
"""


def light_modules() -> list[str]:
    names = ["ucaudit", "ucaudit.packs.opened", "ucaudit.packs.detect"]
    for package in (ucaudit.core, ucaudit.evidence, ucaudit.cli):
        names.append(package.__name__)
        names += [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return names


def loaded_by(names: list[str]) -> dict[str, list[str]]:
    command = [sys.executable, "-c", PROBE, json.dumps(names), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@cache
def loaded_by_light_modules() -> dict[str, list[str]]:
    return loaded_by(light_modules())


@pytest.mark.parametrize("name", light_modules())
def test_loads_nothing_heavy(name: str) -> None:
    assert loaded_by_light_modules()[name] == []


def test_every_command_is_among_them() -> None:
    from ucaudit.cli.main import COMMANDS

    modules = {target.split(":")[0] for target, _ in COMMANDS.values()}
    assert modules <= set(light_modules())


def test_the_probe_sees_a_heavy_import() -> None:
    assert loaded_by(["json", "safetensors"]) == {"json": [], "safetensors": ["safetensors"]}
