"""The HTML report in headless Chromium: nothing loaded, nothing runs, nothing sticks out, at two widths."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_setting, make_values
from chromium import Chromium
from floors import make_floor

from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.ledger import Ledger, export_period
from ucaudit.evidence.trust import load_trust
from ucaudit.report import profile_names, render_bundle
from ucaudit.report.floors import render_floor
from ucaudit.report.period import period_view, render_period

pytestmark = pytest.mark.oracle

HOUSE = str(Path(__file__).parents[2] / "docs" / "examples" / "house-profile")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
LOADED = "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
STICKING_OUT = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (box.width === 0 || e.closest('table') || e.closest('svg') || e.closest('pre')) return false;
  return box.right > document.documentElement.clientWidth + 1;
}).map(e => e.tagName + '.' + e.className)
"""
CLIPPED_CELLS = """
[...document.querySelectorAll('.facts td, .facts th')].filter(e => {
  const box = e.getBoundingClientRect();
  if (box.width === 0) return false;
  return box.right > document.documentElement.clientWidth + 1 || e.scrollWidth > e.clientWidth + 2;
}).map(e => e.textContent.slice(0, 60))
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("html")
    setting = make_setting(place)
    earlier = open_bundle(make_bundle(setting, place / "earlier"))
    bundle = open_bundle(make_bundle(setting, place / "bundle", values=make_values(n=41, drift=0.05)))
    trust = load_trust(setting.trust)
    made = {}
    for number, profile in enumerate((*profile_names(), HOUSE)):
        made[profile] = place / f"{number}.html"
        made[profile].write_bytes(
            render_bundle(bundle, profile, kind="html", trust=trust, previous=[earlier], ledger=setting.ledger)
        )
    made["floor"] = place / "floor.html"
    made["floor"].write_bytes(render_floor(open_bundle(make_floor(setting, place / "floor")), "soc2", kind="html"))
    ledger = Ledger.open(setting.ledger)
    entries: list[bytes] = []
    period = export_period(ledger, ledger.verify(sink=entries.extend), entries, None, None)
    made["period"] = place / "period.html"
    view = period_view(period, drawn="2026-11-28T17:00:00Z", evidence=place / "bundle")
    made["period"].write_bytes(render_period(view, kind="html"))
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, absent: Callable[[str], Any]) -> Iterator[Chromium]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        absent("chromium is not installed")
    assert program is not None
    opened = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*profile_names(), HOUSE, "period", "floor"], ids=lambda name: Path(name).name)
def test_it_fits_and_loads_nothing(pages: dict[str, Path], browser: Chromium, name: str, width: str) -> None:
    across, down = WIDTHS[width]
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=across,
        height=down,
        deviceScaleFactor=1,
        mobile=width == "phone",
    )
    browser.open(pages[name].as_uri(), "document.readyState === 'complete' && document.fonts.status === 'loaded'")
    assert browser.evaluate("document.documentElement.scrollWidth") <= across
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(CLIPPED_CELLS) == []
    assert browser.evaluate(LOADED) == []
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)") is True
    families = browser.evaluate("[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)")
    assert {family.strip('"') for family in families} == {"IBM Plex Sans", "IBM Plex Mono"}
    small = browser.evaluate(
        "[...document.querySelectorAll('p, li, td, th')]"
        ".filter(e => parseFloat(getComputedStyle(e).fontSize) < 9).length"
    )
    assert small == 0


def test_links_lead_somewhere(pages: dict[str, Path], browser: Chromium) -> None:
    for path in pages.values():
        browser.open(path.as_uri(), "document.readyState === 'complete'")
        dead = "[...document.links].filter(a => !document.querySelector(a.getAttribute('href'))).length"
        assert browser.evaluate(dead) == 0
