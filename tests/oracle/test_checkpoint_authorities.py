"""Quantised safetensors: what each format's own package packs and decodes, beside what we decode from the same
files.

Ten tensors a type, odd shapes, rows of zeros, of tiny and of large numbers; every bit is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import authorities
import pytest
from oracles import OracleAbsentError

pytestmark = pytest.mark.oracle

TENSORS = 10
TYPES = {
    "compressed_tensors": 41,
    "compressed_tensors_order": 2,
    "bitsandbytes": 5,
    "transformers": 4,
    "sources": 40,
}


@pytest.mark.parametrize("name", authorities.ENVIRONMENTS)
def test_every_bit(name: str, tmp_path: Path, absent: Callable[[str], NoReturn]) -> None:
    try:
        made = authorities.run(name, tmp_path, TENSORS)
    except OracleAbsentError as error:
        absent(str(error))
    assert len({case.rpartition("-")[0] for case in made["cases"]}) >= TYPES[name]
    assert authorities.differences(tmp_path, made["cases"]) == []
