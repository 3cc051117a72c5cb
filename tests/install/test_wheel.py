"""The wheel holds its data and works outside the checkout, in a base install without any heavy library."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
BUNDLE, PACK = FIXTURES / "bundle", FIXTURES / "pack"
TRUST, POLICY = FIXTURES / "trust.toml", FIXTURES / "policy.toml"
Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("torch", "numpy", "transformers", "jinja2", "weasyprint", "safetensors", "gguf", "pyarrow")


@pytest.mark.parametrize("kind", ["templates", "schemas"])
def test_data_files_are_inside(wheel: Path, clean_copy: Path, kind: str) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = [path.relative_to(clean_copy) for path in (clean_copy / kind).rglob("*") if path.is_file()]
    assert wanted
    assert not [str(path) for path in wanted if f"ucaudit/_data/{path.as_posix()}" not in inside]


def test_fonts_types_and_licence_are_inside_and_tests_are_not(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("ucaudit/_data/templates/") and "font" in name for name in inside)
    assert any(name.endswith(".html.j2") or name.endswith(".html") for name in inside)
    assert any(name.endswith("attestation.schema.json") for name in inside)
    assert "ucaudit/py.typed" in inside
    assert any(name.endswith("/licenses/LICENSE") for name in inside)
    assert {name.split("/")[0].split("-")[0] for name in inside} == {"ucaudit"}


def test_every_module_is_inside(wheel: Path, clean_copy: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(clean_copy).as_posix() for path in (clean_copy / "ucaudit").rglob("*.py")}
    assert modules <= inside


@pytest.mark.parametrize("library", HEAVY)
def test_no_heavy_library_is_there(light_bin: Path, tmp_path: Path, library: str) -> None:
    done = subprocess.run(
        [light_bin / "python", "-c", f"import {library}"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"ModuleNotFoundError" in done.stderr


def test_it_is_the_installed_copy_that_runs(run: Run, light_bin: Path, tmp_path: Path) -> None:
    code = "import ucaudit; print(ucaudit.__file__)"
    assert run(light_bin / "python", "-c", code, cwd=tmp_path).stdout.startswith(str(light_bin.parent))


def test_help_and_schemas(run: Run, light_bin: Path, tmp_path: Path) -> None:
    assert "Commands:" in run(light_bin / "ucaudit", "--help", cwd=tmp_path).stdout
    names = run(light_bin / "ucaudit", "schema", cwd=tmp_path).stdout.split()
    assert "attestation" in names
    for name in names:
        assert "$schema" in json.loads(run(light_bin / "ucaudit", "schema", name, cwd=tmp_path).stdout)


def test_verify(run: Run, light_bin: Path, tmp_path: Path) -> None:
    done = run(light_bin / "ucaudit", "verify", BUNDLE, "--trust", TRUST, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["authentic"] is True


def test_verify_refuses_an_edited_bundle(light_bin: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    state = (copy / "STATE").read_bytes()
    (copy / "STATE").write_bytes(bytes([state[0] ^ 1]) + state[1:])
    command = [light_bin / "ucaudit", "verify", copy, "--trust", TRUST]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ucaudit: error:" in done.stderr


def test_bound(run: Run, light_bin: Path, tmp_path: Path) -> None:
    done = run(light_bin / "ucaudit", "bound", BUNDLE, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)


def test_gate(run: Run, light_bin: Path, tmp_path: Path) -> None:
    options = ("--evidence", BUNDLE, "--policy", POLICY, "--trust", TRUST, "--json")
    done = run(light_bin / "ucaudit", "gate", PACK, *options, cwd=tmp_path)
    assert json.loads(done.stdout)["admitted"] is True


def test_reconstructing_says_which_extra_it_needs(light_bin: Path, tmp_path: Path) -> None:
    pack, out = tmp_path / "pack", tmp_path / "out"
    pack.mkdir()
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (pack / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (pack / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    refuses_for_want_of_an_extra(light_bin / "ucaudit", "reconstruct", pack, "--out", out)
    assert not out.exists()


def test_rendering_says_which_extra_it_needs(light_bin: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.pdf"
    refuses_for_want_of_an_extra(light_bin / "ucaudit", "report", BUNDLE, "--profile", "soc2", "--out", report)
    assert not report.exists()


def refuses_for_want_of_an_extra(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "ucaudit: error:" in done.stderr
    assert "ucaudit[" in done.stderr
    assert "Traceback" not in done.stderr
