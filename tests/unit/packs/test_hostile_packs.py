"""Every pack of fixtures/hostile/packs does what its case says."""

import json
import shutil
from pathlib import Path

import pytest

from ucaudit.core.errors import UcauditError
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state

PACKS = Path(__file__).parents[3] / "fixtures" / "hostile" / "packs"
CASES = json.loads((PACKS / "cases.json").read_text())


def test_every_pack_has_a_case():
    assert {path.name for path in PACKS.iterdir()} == {*CASES, "cases.json"}


@pytest.fixture
def pack(name, tmp_path):
    """The case's files, with the links that it asks for."""
    path = shutil.copytree(PACKS / name, tmp_path / name)
    for link, target in CASES[name].get("links", {}).items():
        (path / link).symlink_to(target)
    return path


@pytest.mark.parametrize("name", CASES)
def test_hostile_pack(name, pack):
    expect = CASES[name]["expect"]
    late = expect.endswith("-when-decoded")
    if late or expect == "opens":
        source = open_source(pack)
    if expect == "opens":
        assert reconstruct_state(source) == source.published_state() and source.unclaimed() == ()
        return
    with pytest.raises(UcauditError) as caught:
        reconstruct_state(source) if late else open_source(pack)
    assert caught.value.code == expect.removesuffix("-when-decoded")
    assert caught.value.exit_code in (3, 4) and caught.value.subject
    assert str(caught.value) == str(caught.value).rstrip(".") and "\n" not in str(caught.value)
