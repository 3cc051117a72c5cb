"""The PDF: our fonts only, the same bytes twice, the record inside; and what happens where it cannot be made."""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from factories import make_attestation

from ucaudit.core.errors import InputError, MissingExtraError, UnavailableError
from ucaudit.core.records import Context
from ucaudit.report import profile_names
from ucaudit.report.pdf import require_weasyprint
from ucaudit.report.render import render_html, render_pdf

# Renders without one font of the machine, twice, with words that the bundled fonts lack.
SCRIPT = """
import sys
from factories import *
from ucaudit.core.records import Context
from ucaudit.report import build_view
from ucaudit.report.render import render_pdf
values = make_values(tokens=40)
foreign = Context(institution="\\u5c71\\u7530 \\u05d0 \\u2016 \\u0416 \\u03c4")
record = make_attestation(values=values, context=foreign)
view = build_view(make_attestation_statement(record), envelope_digest=digest_of("e"), signer_key_id="",
    principal=None, endorsements=(), values=values, ledger=None, profile="soc2")
one, two = (render_pdf(view, paper="letter", attach=b'{"payload": "x"}') for _ in range(2))
assert one == two, "two renders differ"
open(sys.argv[1], "wb").write(one)
"""


def streams(data: bytes) -> bytes:
    """The file with its compressed streams in the clear."""
    parts = [data]
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            parts.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return b"\n".join(parts)


def test_without_system_fonts_and_twice_the_same(tmp_path: Path) -> None:
    config = tmp_path / "fonts.conf"
    config.write_text('<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig></fontconfig>')
    out = tmp_path / "report.pdf"
    environment = {
        **os.environ,
        "FONTCONFIG_FILE": str(config),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TZ": "Asia/Tokyo",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    data = out.read_bytes()
    clear = streams(data)
    fonts = {name.decode() for name in re.findall(rb"/BaseFont\s*/[A-Z]{6}\+([\w-]+)", clear)}
    assert fonts == {"IBM-Plex-Sans", "IBM-Plex-Sans-Semi-Bold", "IBM-Plex-Mono"}
    assert b"/AFRelationship /Source" in clear
    assert b'{"payload": "x"}' in clear
    assert b"<pdfuaid:part>1</pdfuaid:part>" in clear
    assert b"2026-11-24T09:30:00" in clear
    assert b"/MediaBox [0 0 612" in clear


@pytest.mark.slow
@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_every_profile_and_paper(make_view: Any, profile: str, paper: Any) -> None:
    view = make_view(profile)
    attach = b"{}" if view.profile.attach_record else None
    digests = {hashlib.sha256(render_pdf(view, paper=paper, attach=attach)).hexdigest() for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.slow
def test_long_and_foreign_words(make_view: Any) -> None:
    text = "verylongname" * 400 + " 山田 אבג \u202e <b>"
    record = make_attestation(context=Context(institution=text, classification=text, intended_use=text))
    assert render_pdf(make_view("sr-11-7", of=record), attach=b"{}").startswith(b"%PDF-1.7")


@pytest.mark.parametrize(("profile", "attach"), [("fda", b"{}"), ("soc2", None)])
def test_attachment_as_the_profile_says(make_view: Any, profile: str, attach: bytes | None) -> None:
    with pytest.raises(InputError):
        render_pdf(make_view(profile), attach=attach)


def test_unknown_paper(make_view: Any) -> None:
    with pytest.raises(InputError, match="paper is one of a4, letter"):
        render_html(make_view(), paper="a3")


def _without(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception) -> None:
    real = builtins.__import__

    def fake(name: str, *arguments: Any, **options: Any) -> Any:
        if name == module:
            raise error
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fake)


@pytest.mark.parametrize("module", ["weasyprint", "jinja2", "segno"])
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    _without(monkeypatch, module, ImportError(module))
    with pytest.raises(MissingExtraError) as caught:
        require_weasyprint()
    assert caught.value.code == "missing-extra"
    assert caught.value.hint.startswith("pip install 'ucaudit[report]'")


def test_missing_pango(monkeypatch: pytest.MonkeyPatch, make_view: Any) -> None:
    _without(monkeypatch, "weasyprint", OSError("cannot load library 'libpango-1.0-0'"))
    with pytest.raises(UnavailableError) as caught:
        render_pdf(make_view(), attach=b"{}")
    assert caught.value.code == "unavailable"
    assert "apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0" in str(caught.value.hint)
    assert render_html(make_view()).startswith("<!DOCTYPE html>")
