"""Where templates, fonts and schemas lie: package data in a wheel, top-level folders in a checkout."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import ucaudit


def resource_root(kind: str) -> Path:
    """The directory of one kind of data file.

    Args:
        kind: ``"templates"`` or ``"schemas"``.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    packaged = files("ucaudit").joinpath("_data", kind)
    if packaged.is_dir():
        with as_file(packaged) as path:
            return path
    checkout = Path(ucaudit.__file__).resolve().parent.parent / kind
    if checkout.is_dir():
        return checkout
    raise FileNotFoundError(f"ucaudit was installed without its {kind}")
