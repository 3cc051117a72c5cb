"""The HTML: complete, escaped, self-contained, modest."""

from __future__ import annotations

import html
import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from factories import make_attestation, make_values

from ucaudit.core.records import Context
from ucaudit.report import profile_names
from ucaudit.report.render import SECTIONS, render_html

# What no report may say of a model, a signer or itself. "effective challenge" is SR 11-7's own term.
FORBIDDEN = re.compile(
    r"\b(compliant|compliance|certif\w+|validated|safe|effective(?! challenge)|clinically|unbiased|lossless|"
    r"guarantee\w*|independent validation|in our opinion|equivalent|tamper-?proof|verified)\b",
    re.IGNORECASE,
)


class Reader(HTMLParser):
    """Text, ids, links and the tags met."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._skip = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._skip = tag == "style"
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values.get("href")))

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text.append(data)


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    return reader


def words(document: str) -> str:
    return " ".join(" ".join(read(document).text).split())


@pytest.fixture(scope="module", params=profile_names())
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_sections_in_order_and_limitations_second(make_view: Any, profile: str) -> None:
    reader = read(render_html(make_view(profile)))
    assert [item for item in reader.ids if item in SECTIONS] == list(SECTIONS)
    assert list(SECTIONS)[:2] == ["determination", "scope"]
    assert len(reader.ids) == len(set(reader.ids))


def test_self_contained(make_view: Any, profile: str) -> None:
    document = render_html(make_view(profile))
    reader = read(document)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "img", "object", "form", "base"}
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert set(re.findall(r"url\(\"?([a-z]+):", document)) == {"data"}
    assert not re.search(r"\bon[a-z]+=", document)
    assert not re.search(r"@import|https?://(?!www\.w3\.org/2000/svg)", document)


def test_it_never_claims_what_it_cannot(make_view: Any, profile: str) -> None:
    for values in (make_values(), make_values(drift=0.06), make_values(drift=0.047, noise=0.012)):
        text = words(render_html(make_view(profile, of=make_attestation(values=values))))
        assert FORBIDDEN.findall(text) == []
        assert "This page is a rendering; the signed record governs." in text
        assert "What it does not cover" in text


def test_accessible_structure(make_view: Any, profile: str) -> None:
    reader = read(render_html(make_view(profile)))
    tags = reader.tags
    assert ("html", {"lang": "en"}) in tags
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") >= 10
    assert all(values.get("scope") in ("row", "col") for tag, values in tags if tag == "th")
    assert names.count("svg") == 5
    assert names.count("title") == 1 + 5
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize(
    ("drift", "noise", "word"),
    [(0.012, 0.006, "PASS"), (0.06, 0.006, "FAIL"), (0.047, 0.012, "INCONCLUSIVE")],
)
def test_the_determination_heads_every_page(make_view: Any, drift: float, noise: float, word: str) -> None:
    record = make_attestation(values=make_values(drift=drift, noise=noise), kl_max=0.065)
    document = render_html(make_view(of=record))
    assert f'data-determination="Determination: {word}"' in document
    assert "determination attr(data-determination)" in document
    assert "content: string(determination)" in document
    first = words(document).index(f" {word} ")
    assert first < words(document).index("What was examined")


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "</style></title></svg>",
    "&lt;b&gt; &amp; 'quotes\"",
    "javascript:alert(1)",
    "x" * 3000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_are_printed_not_obeyed(make_view: Any, text: str) -> None:
    record = make_attestation(
        context=Context(
            institution=text, model_owner=text, intended_use=text, materiality=text, classification=text
        )
    )
    record = record.model_copy(
        update={"pack": record.pack.model_copy(update={"name": text[:500], "unclaimed_files": (text[:500],)})}
    )
    plain = read(render_html(make_view("sr-11-7")))
    reader = read(render_html(make_view("sr-11-7", of=record)))
    assert sorted({tag for tag, _ in reader.tags}) == sorted({tag for tag, _ in plain.tags})
    assert text in "".join(reader.text)
    assert not any(name.startswith("on") for _, values in reader.tags for name in values)


def test_directional_overrides_and_controls_show_as_code_points(make_view: Any) -> None:
    record = make_attestation(context=Context(institution="abc\u202edef\x07ghi\u2066"))
    document = render_html(make_view(of=record))
    assert "abc[U+202E]def[U+0007]ghi[U+2066]" in document
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", document)


def test_numbers_carry_intervals_and_absent_ones_say_so(make_view: Any) -> None:
    text = words(render_html(make_view(values=None)))
    assert "1.0100 to 1.0167 (95%)" in text
    assert "not assessed: the per-token files were not given" in text
    assert "not assessed: no previous attestation was given for comparison" in text
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", render_html(make_view(values=None)), re.DOTALL)
    assert len(cells) > 100
    assert [cell for cell in cells if not cell.strip()] == []


def test_profile_parts(make_view: Any) -> None:
    soc2, mrm, fda = (words(render_html(make_view(name))) for name in profile_names())
    assert "Control activity Test performed Result Exception" in soc2
    assert "SR 11-7 SR 26-2 topic Subject" in mrm and "rescinded on 2026-04-17" in mrm
    assert "Signing block (21 CFR 11.50)" in fda and "Modification Protocol step Acceptance criterion Result" in fda
    assert "this file carries no attachment" in fda
    assert "Signing block" not in soc2 + mrm


def test_the_recipe_is_whole(make_view: Any) -> None:
    document = html.unescape(render_html(make_view()))
    assert "{ printf 'DSSEv1 %d %s %d ' ${#T} \"$T\" $(wc -c < payload); cat payload; } > pae" in document
    assert "openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in pae -sigfile signature" in document


def test_deterministic(make_view: Any, profile: str) -> None:
    assert render_html(make_view(profile)) == render_html(make_view(profile))
