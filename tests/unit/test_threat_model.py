"""docs/threat-model.md says which test shows what: all of them exist, and every attack has one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ucaudit.evidence.spots import chance_to_find

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^\s*def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
}
HOSTILE = ROOT / "fixtures" / "hostile"


def rows(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def cases():
    found = set()
    for kind in ("bundles", "packs"):
        listed = json.loads((HOSTILE / kind / "cases.json").read_text(encoding="utf-8"))
        listed = listed.get("cases", listed) if isinstance(listed, dict) else listed
        found |= set(listed) if isinstance(listed, dict) else {case["name"] for case in listed}
    return found


def test_every_test_that_is_named_exists():
    known = cases()
    missing = []
    named = 0
    for row in rows("Attacks and what catches them"):
        for word in re.findall(r"`([^`]+)`", row[-1]):
            named += 1
            if (
                word not in TESTS
                and word not in known
                and not (word.startswith("tests/") and (ROOT / word).exists())
            ):
                missing.append(word)
    assert not missing
    assert named > 90


def test_every_attack_names_one():
    for row in rows("Attacks and what catches them"):
        if row[0].startswith("**"):
            continue
        assert len(row) == 3 and re.search(r"`[^`]+`", row[2]), row


def test_every_path_in_the_text_exists():
    for word in re.findall(r"`((?:tests|fixtures|docs)/[^`]*)`", TEXT):
        assert (ROOT / word).exists(), word
    for link in re.findall(r"\]\(([\w-]+\.md)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_the_chances_in_the_table():
    for row in rows("Spot checks"):
        false = int(row[0])
        for drawn, cell in zip((3, 10, 25), row[1:], strict=True):
            assert cell == f"{chance_to_find(50, drawn, false):.0%}"
