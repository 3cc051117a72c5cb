"""Charts: well-formed, deterministic, described in words, in the right place."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from factories import make_attestation, make_values

from ucaudit.core.records import Attestation, LayerError
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.report.charts import claim_ladder, figures, layer_chart, window_chart
from ucaudit.report.svg import Scale, padded, qr_svg, tick_labels

SVG = "{http://www.w3.org/2000/svg}"


def test_every_figure_is_svg_with_a_text_alternative(record: Attestation, values: TokenValues) -> None:
    found = figures(record, values)
    assert len(found) == 4
    for figure in found:
        assert figure.svg is not None
        root = ElementTree.fromstring(figure.svg)
        title = root.find(f"{SVG}title")
        assert title is not None and title.text is not None and any(digit in title.text for digit in "0123456789")
        assert root.get("aria-label") == title.text
        assert "style" not in figure.svg and "<script" not in figure.svg
    assert found == figures(record, values)


def test_without_values_the_charts_say_so(record: Attestation) -> None:
    ladder, windows, positions, layers = figures(record, None)
    assert ladder.svg and layers.svg
    assert windows.svg is None and positions.svg is None
    assert windows.missing == positions.missing == "not assessed: the per-token files were not given"


def test_one_dot_a_window_and_the_alternative_counts_them(record: Attestation, values: TokenValues) -> None:
    svg = window_chart(record, values).svg
    assert svg is not None
    root = ElementTree.fromstring(svg)
    assert len(root.findall(f"{SVG}circle")) == values.n
    title = root.findtext(f"{SVG}title")
    assert title is not None and title.startswith(f"{values.n} dots for {values.n} windows")
    assert "Limit on the mean 0.0488" in title


def test_dots_stay_inside_and_rise_with_the_value(record: Attestation, values: TokenValues) -> None:
    svg = window_chart(record, values).svg
    assert svg is not None
    from ucaudit.evidence.claims import window_differences

    heights = [-float(dot.get("cy", "nan")) for dot in ElementTree.fromstring(svg).findall(f"{SVG}circle")]
    assert all(-142 <= height <= -8 for height in heights)
    differences = window_differences(values)
    order = sorted(range(values.n), key=differences.__getitem__)
    assert [heights[index] for index in order] == sorted(heights)


def test_a_far_limit_is_named_at_the_edge() -> None:
    values = make_values(drift=0.001, noise=0.0005)
    figure = window_chart(make_attestation(values=values, ratio_max=3.0), values)
    assert figure.svg is not None and "beyond the top" in figure.svg


def test_many_windows_are_grouped_and_the_caption_says_so(record: Attestation) -> None:
    figure = window_chart(record, make_values(n=700, tokens=2))
    assert figure.svg is not None and figure.svg.count("<circle") == 350
    assert "mean of up to 2 consecutive windows" in figure.caption


def test_ladder_without_limits_on_a_scale(record: Attestation) -> None:
    only = [claim for claim in record.claims if claim.comparator == "=="]
    assert claim_ladder(only).missing == "not assessed: no claim has a limit on a scale"


@pytest.mark.parametrize("count", [1, 2, 126, 200])
def test_layers(count: int) -> None:
    errors = [LayerError(layer=f"model.layers.{i}", relative_error=0.01, parameters=1) for i in range(count)]
    figure = layer_chart(errors)
    assert figure.svg is not None and figure.svg.count("<rect") == math.ceil(count / math.ceil(count / 160))
    assert ("The record names 200 layers" in figure.caption) == (count == 200)


def test_layers_of_an_identical_pack_and_of_none() -> None:
    assert layer_chart([LayerError(layer="x.0", relative_error=0.0, parameters=1)]).svg is not None
    assert layer_chart([]).missing == "not assessed: the record holds no per-layer errors"


def test_hostile_names_stay_text() -> None:
    error = LayerError(layer='"/><script>alert(1)</script>', relative_error=0.5, parameters=1)
    svg = layer_chart([error]).svg
    assert svg is not None and "<script" not in svg
    ElementTree.fromstring(svg)


def test_scale_and_ticks() -> None:
    scale = Scale(0, 10, 100, 0)
    assert (scale(0), scale(5), scale(10), scale(99)) == (100, 50, 0, 0)
    assert scale.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert tick_labels([0.0, 0.005, 0.01]) == ["0.000", "0.005", "0.010"]
    assert tick_labels([-20.0, 0.0, 20.0]) == ["−20", "0", "20"]
    flat = Scale(3, 3, 0, 1)
    assert flat.low < 3 < flat.high
    assert padded([math.inf, 1.0, 3.0], 0.5) == (0.0, 4.0)


def test_qr_holds_every_module() -> None:
    import segno

    svg = qr_svg("a" * 64, title="QR")
    dark = sum(map(sum, segno.make("a" * 64, error="m", micro=False, boost_error=False).matrix))
    path = ElementTree.fromstring(svg).find(f"{SVG}path")
    assert path is not None
    runs = [int(part.split("v")[0]) for part in path.get("d", "").split("h")[1:] if "v" in part]
    assert sum(runs) == dark
