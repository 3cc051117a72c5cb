"""The forest plot and the report's section of a floor."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from bundles import make_setting
from floors import make_floor, protocol

from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.signing import read_statement
from ucaudit.report.forest import floor_section, forest_plot


def record(tmp_path, **options):
    setting = make_setting(tmp_path)
    return read_statement(open_bundle(make_floor(setting, tmp_path / "floor", **options)).attestation).predicate


def lines(svg):
    """Every horizontal interval bar: (x1, x2)."""
    root = ET.fromstring(svg)
    name = "{http://www.w3.org/2000/svg}line"
    return [(float(i.get("x1")), float(i.get("x2"))) for i in root.iter(name) if i.get("stroke-width") == "2.4"]


@pytest.mark.parametrize("levels", [{}, {"rank-4": 0.006}, {"rank-4": 0.0091, "kl-0.1": 0.06}])
def test_every_attempt_has_a_bar_on_the_right_side_of_the_margin(tmp_path, levels):
    made = record(tmp_path, levels=levels)
    figure = forest_plot(made)
    bars = lines(figure.svg)
    shown = [*made.results.attempts, *(made.results.confirmation.attempts if made.results.confirmation else ())]
    assert len(bars) == len(shown)
    [margin] = [
        float(x) for x in re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="\1"[^>]*stroke-dasharray', figure.svg)
    ]
    for (left, right), item in zip(bars, shown, strict=True):
        assert left <= right
        assert (right < margin) == (item.upper < made.protocol.margin)
        assert (left > margin) == (item.lower > made.protocol.margin)


def test_the_text_alternative_holds_the_numbers(tmp_path):
    made = record(tmp_path, levels={"rank-4": 0.006})
    title = ET.fromstring(forest_plot(made).svg).find("{http://www.w3.org/2000/svg}title").text
    assert title.startswith("FLOOR REFUTED, margin 0.001 nats per token of ln ratio.")
    assert title.count("interval") == 4 and "rank-4, fresh: 0.00" in title


def test_the_section_has_every_row(tmp_path):
    section = floor_section(record(tmp_path, made=protocol(metric="meanKl")))
    assert (section.verdict, section.metric) == ("FLOOR SUPPORTED", "mean KL")
    assert [row.name for row in section.rows] == ["rank-4", "steps-20", "kl-0.1"]
    assert [level[0] for level in section.levels] == ["baseline", "rank-4", "steps-20", "kl-0.1"]
    assert all(" to " in level[1] for level in section.levels)
