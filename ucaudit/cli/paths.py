"""The type of every path on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

PATH: Final = click.Path(path_type=Path, readable=False)
"""Click looks at nothing: what is missing or may not be read is the library's error, with its own exit code."""
