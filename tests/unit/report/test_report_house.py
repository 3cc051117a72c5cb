"""A profile folder of an institution: logo, colour and sections; and nothing that does not belong in a report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_report_profiles import MINIMAL

from ucaudit.core.errors import InputError, NotFoundError, RefusedError, UcauditError
from ucaudit.report import load_profile
from ucaudit.report.house import contrast_with_white, render_template
from ucaudit.report.render import render_html

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "house-profile"
EXTRA = '[[extra]]\ntitle = "More <b>"\ntemplate = "more.html.j2"\nafter = "signoff"\n'


def folder(place: Path, settings: str = "", **files: str) -> str:
    head, rows = MINIMAL.split("[[controls]]", 1)
    (place / "profile.toml").write_text(f"{head}\n{settings}\n[[controls]]{rows}", encoding="utf-8")
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return str(place)


def test_the_example_of_the_docs(make_view: Any) -> None:
    text = render_html(make_view(str(EXAMPLE)))
    assert "<h2>Release checklist</h2>" in text
    assert '<a href="#extra-1">Release checklist</a>' in text
    assert 'alt="Example Bank"' in text and "data:image/svg+xml;base64," in text
    assert "#7a1f3d" in text and "#1f4e79" not in text
    assert "Did every claim hold?" in text


def test_a_section_is_escaped_and_follows_the_one_it_names(make_view: Any, tmp_path: Path) -> None:
    name = folder(tmp_path, EXTRA, more__html__j2="<p>{{ record.pack.name }} &amp; {{ '<i>' }}</p>")
    text = render_html(make_view(name))
    assert "<h2>More &lt;b&gt;</h2>" in text and "&amp; &lt;i&gt;</p>" in text
    assert text.index('id="signoff"') < text.index('id="extra-1"') < text.index('id="verification"')


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        ("<script>1</script>", InputError, "<script> is not allowed"),
        ("<p onclick=x>", InputError, "onclick"),
        ('<a href="https://example.org">x</a>', InputError, "links stay inside"),
        ('<img src="file:///etc/passwd" alt="x">', InputError, "not allowed"),
        ('<img src="data:image/png;base64,AA">', InputError, "text alternative"),
        ("<style>p{}</style>", InputError, "<style> is not allowed"),
        ("<!DOCTYPE html>", InputError, "declarations"),
        ("{{ nothing_of_that_name }}", InputError, "undefined"),
        ("{{ record.pack.nam }}", InputError, "nam"),
        ("{% if %}", InputError, "line 1"),
        ("{{ ''.__class__.__mro__ }}", RefusedError, "may not do this"),
        ("{% include 'other' %}", InputError, "cannot be rendered"),
        ("{{ 1 / 0 }}", InputError, "cannot be rendered"),
    ],
)
def test_what_a_section_may_not_hold(
    make_view: Any, tmp_path: Path, template: str, error: type[UcauditError], words: str
) -> None:
    name = folder(tmp_path, EXTRA, more__html__j2=template)
    with pytest.raises(error) as caught:
        render_html(make_view(name))
    assert words in f"{caught.value} {caught.value.hint}"
    assert caught.value.subject == "more.html.j2"


@pytest.mark.parametrize(
    ("logo", "words"),
    [
        ("<svg><text>Bank</text></svg>", "font of the machine"),
        ("<svg><script/></svg>", "script"),
        ("<svg onload='x()'/>", "script"),
        ('<svg><image href="https://example.org/x.png"/></svg>', "outside"),
        ('<svg style="fill:url(http://example.org)"/>', "outside"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', "entities"),
        ("GIF89a", "a png or an svg"),
    ],
)
def test_what_a_logo_may_not_be(tmp_path: Path, logo: str, words: str) -> None:
    name = folder(tmp_path, '[look]\nlogo = "l.svg"\nlogo_alt = "Bank"\n', l__svg=logo)
    with pytest.raises(InputError, match=words):
        load_profile(name)


@pytest.mark.parametrize("settings", ['[look]\nlogo = "l.svg"\nlogo_alt = "Bank"\n', EXTRA])
def test_a_missing_file_is_named(tmp_path: Path, settings: str) -> None:
    with pytest.raises(NotFoundError, match="the folder lacks it") as caught:
        load_profile(folder(tmp_path, settings))
    assert str(tmp_path) in str(caught.value.subject)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[look]\naccent = "#ffcc00"\n', "contrast of 1.5"),
        ('[look]\naccent = "red"\n', "pattern"),
        ('[look]\nlogo = "../l.svg"\nlogo_alt = "x"\n', "pattern"),
        ('[look]\nlogo = "l.svg"\n', "come together"),
        ('[severity]\nclaim-failed = "grave"\n', "high"),
        ('[severity]\nclaim-fialed = "high"\n', "claim-failed"),
        (EXTRA.replace("signoff", "determination"), "limitations come second"),
        (EXTRA.replace("signoff", "nowhere"), "scope"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_profile(folder(tmp_path, settings))


def test_a_folder_does_not_shadow_a_built_in_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "soc2")
    monkeypatch.chdir(tmp_path)
    assert load_profile("soc2").slug == "soc2"
    assert load_profile("./soc2").slug == "example-bank"
    with pytest.raises(NotFoundError):
        load_profile(str(tmp_path))


def test_contrast_against_known_values() -> None:
    # WCAG's own end points, and #767676, the lightest grey that is known to pass 4.5:1.
    assert contrast_with_white("#ffffff") == pytest.approx(1)
    assert contrast_with_white("#000000") == pytest.approx(21)
    assert 4.5 < contrast_with_white("#767676") < contrast_with_white("#757575")
    assert contrast_with_white("#777777") < 4.5


def test_the_sandbox_keeps_what_it_is_given(make_view: Any) -> None:
    names = ["a"]
    with pytest.raises(RefusedError):
        render_template("t", "{{ names.append('b') }}", {"names": names})
    assert names == ["a"]
