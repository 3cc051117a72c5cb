"""What a record says of the machine: classes and versions, nothing that names it or its user."""

from __future__ import annotations

import importlib.metadata
import platform

from ucaudit import __version__
from ucaudit.core.records import Environment

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "pydantic", "cryptography")


def describe_environment() -> Environment:
    """Python, system, machine type and the versions of the libraries that matter."""
    libraries = {"ucaudit": __version__}
    for name in _LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=platform.system(),
        machine=platform.machine(),
        libraries=libraries,
    )
