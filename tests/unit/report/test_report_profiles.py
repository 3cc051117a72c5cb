"""Profiles are data: complete, strict, and without claims that nobody can make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.resources import resource_root
from ucaudit.report import load_profile, profile_names

MINIMAL = """
slug = "house"
version = "1"
title = "House rules"
framework = "our own"
classification = "Internal"
pdf_variant = "pdf/a-3a"
attach_record = true
mapping_columns = ["Rule"]
scope = ["About us."]
[[controls]]
ids = ["R1"]
about = "a"
strength = "supporting"
evidence = "b"
sections = ["results"]
[[controls]]
ids = ["R2"]
about = "a"
strength = "not covered"
evidence = "none"
"""


def test_names_and_aliases() -> None:
    assert profile_names() == ("soc2", "sr-11-7", "fda")
    assert load_profile("mrm") is load_profile("sr-11-7")


@pytest.mark.parametrize("name", ["", "SOC2", "../soc2", "gdpr"])
def test_unknown_profile(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_profile(name)
    assert "soc2, sr-11-7, fda" in str(caught.value.hint)


def test_every_strength_occurs_and_rows_point_somewhere() -> None:
    for name in profile_names():
        profile = load_profile(name)
        assert {row.strength for row in profile.controls} == {"direct", "supporting", "not covered"}
        assert all(row.sections for row in profile.covered())
        assert len({row.ids for row in profile.controls}) == len(profile.controls)


def test_the_rows_that_readers_look_for() -> None:
    def ids(name: str) -> str:
        return " ".join(part for row in load_profile(name).controls for part in row.ids)

    for criterion in ("CC8.1", "CC7.1", "CC6.8", "PI1.3", "PI1.4", "PI1.5"):
        assert criterion in ids("soc2")
    for provision in ("11.10(a)", "11.10(b)", "11.10(c)", "11.10(e)", "11.10(f)", "11.50", "11.70", "11.100"):
        assert provision in ids("fda")
    assert load_profile("sr-11-7").mapping_columns == ("SR 11-7", "SR 26-2 topic")
    assert "outcomes analysis" in ids("sr-11-7")


def test_fda_carries_no_attachment_and_names_customer_duties() -> None:
    fda = load_profile("fda")
    assert (fda.pdf_variant, fda.attach_record) == ("pdf/a-2a", False)
    assert all(row.remains and "Customer responsibility" in row.remains for row in fda.not_covered())


def test_an_institutions_own_profile(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    assert load_profile(str(path)).title == "House rules"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('slug = "house"', 'slug = "House!"', "slug"),
        ('version = "1"', 'version = "1"\nverison = "2"', "verison"),
        ('ids = ["R1"]', 'ids = ["R1", "R9"]', "one identifier a mapping column"),
        ('strength = "supporting"', 'strength = "full"', "strength"),
        ('strength = "not covered"', 'strength = "direct"', "not covered"),
        ('sections = ["results"]', 'sections = ["nowhere"]', "sections"),
        ("pdf/a-3a", "pdf/a-2a", "may not carry the record"),
        ("[[controls]]", "[[controls", "not toml"),
    ],
)
def test_malformed_profiles(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "house.toml"
    assert old in MINIMAL
    path.write_text(MINIMAL.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_profile(str(path))
    assert caught.value.subject == str(path)


def test_profiles_are_not_code() -> None:
    for path in (resource_root("templates") / "profiles").iterdir():
        assert path.suffix == ".toml"
        assert "{{" not in path.read_text(encoding="utf-8")
