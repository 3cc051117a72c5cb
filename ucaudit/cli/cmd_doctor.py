"""``ucaudit doctor``: what this machine can do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import click

from ucaudit import __version__
from ucaudit.cli.common import Output, output_options, table
from ucaudit.core.errors import EXIT_PASS, install_hint

_EXTRAS = {
    "hub": ("huggingface_hub",),
    "measure": ("torch", "transformers", "safetensors", "gguf", "numpy"),
    "fast": ("numba",),
    "parquet": ("pyarrow",),
    "report": ("jinja2", "weasyprint", "segno"),
    "timestamp": ("rfc3161_client",),
    "ssh": ("bcrypt",),
}


@click.command()
@output_options
def doctor(out: Output) -> int:
    """Say what this machine can do, what is missing, and the line that installs it.

    Always exits 0: what is missing may not be needed.
    """
    rows: list[tuple[str, str, str]] = [
        ("ucaudit", "ok", __version__),
        ("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("verify, bound, gate", "ok", "base install"),
    ]
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            rows.append((f"extra {extra}", "missing", f"{', '.join(missing)}: {install_hint(extra)}"))
        else:
            versions = ", ".join(f"{module} {importlib.metadata.version(module)}" for module in modules[:2])
            rows.append((f"extra {extra}", "ok", versions))
    rows.append(("pango (PDF)", *_pango()))
    rows.append(("fonts", *_fonts()))
    rows.append(("gpu", *_gpu()))
    document = {"checks": [{"name": name, "state": state, "detail": detail} for name, state, detail in rows]}
    out.result(document, table(rows, wrap=80))
    return EXIT_PASS


def _pango() -> tuple[str, str]:
    import ctypes.util

    libraries = ("pango-1.0", "pangoft2-1.0", "harfbuzz-subset")
    missing = [name for name in libraries if ctypes.util.find_library(name) is None]
    if not missing:
        return "ok", "found"
    if platform.system() == "Darwin":
        return "missing", "brew install pango harfbuzz"
    return "missing", "apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"


def _fonts() -> tuple[str, str]:
    from ucaudit.core.resources import resource_root

    try:
        count = len(list((resource_root("templates") / "fonts").glob("*.woff*")))
    except FileNotFoundError:
        count = 0
    return ("ok", f"{count} bundled files") if count else ("missing", "the installation lacks its fonts: reinstall")


def _gpu() -> tuple[str, str]:
    if importlib.util.find_spec("torch") is None:
        return "-", "not looked for: torch is not installed"
    import torch

    if torch.cuda.is_available():
        return "ok", torch.cuda.get_device_name(0)
    return "-", "none: everything runs on the CPU, to the same bits"
