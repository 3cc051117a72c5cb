"""The record attached to a report, found without a PDF library."""

import zlib

import pytest
from bundles import make_bundle, make_setting

from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.evidence import pdfrecord
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.pdfrecord import attached_record
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_envelope


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def raw(setting):
    return open_bundle(make_bundle(setting, setting.root / "b")).attestation.raw


def pdf(tmp_path, *attachments, flate=True, kind=b"/EmbeddedFile"):
    parts = [b"%PDF-1.7\n"]
    for number, data in enumerate(attachments, start=1):
        body = zlib.compress(data) if flate else data
        filter_ = b"/Filter /FlateDecode" if flate else b""
        parts.append(b"%d 0 obj\n<</Type %s %s /Length %d>>\nstream\n" % (number, kind, filter_, len(body)))
        parts.append(body + b"\nendstream\nendobj\n")
    path = tmp_path / "report.pdf"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("flate", [True, False])
def test_found_and_verified(tmp_path, raw, setting, flate):
    envelope = attached_record(pdf(tmp_path, b"hello", raw, flate=flate))
    assert envelope.payload in (open_bundle(setting.root / "b").attestation.payload,)
    result = verify_envelope(envelope, load_trust(setting.trust))
    assert result.authentic
    assert result.record is not None


def test_a_real_report(tmp_path, raw, setting):
    from ucaudit.report import render_bundle

    path = tmp_path / "report.pdf"
    path.write_bytes(render_bundle(open_bundle(setting.root / "b"), "soc2"))
    assert attached_record(path).raw == raw
    path.write_bytes(render_bundle(open_bundle(setting.root / "b"), "fda"))
    with pytest.raises(NotFoundError, match="no signed record"):
        attached_record(path)


def test_what_is_no_report_with_a_record(tmp_path, raw):
    (tmp_path / "text.pdf").write_text("hello")
    with pytest.raises(InputError, match="not a pdf"):
        attached_record(tmp_path / "text.pdf")
    for path in (
        pdf(tmp_path),
        pdf(tmp_path, b"other"),
        pdf(tmp_path, raw, kind=b"/XObject"),
        pdf(tmp_path, raw[:-30]),
        pdf(tmp_path, *([b"x"] * 16), raw),
    ):
        with pytest.raises(NotFoundError, match="no signed record"):
            attached_record(path)
    whole = pdf(tmp_path, raw)
    whole.write_bytes(whole.read_bytes().partition(b"endstream")[0])
    with pytest.raises(NotFoundError):
        attached_record(whole)


def test_two_records_are_one_too_many(tmp_path, raw):
    assert attached_record(pdf(tmp_path, raw, raw)).raw == raw
    with pytest.raises(InputError, match="2 different records"):
        attached_record(pdf(tmp_path, raw, raw.replace(b'"keyid":"', b'"keyid":"0', 1)))


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(pdfrecord, "MAX_ENVELOPE_BYTES", 1 << 16)
    bomb = pdf(tmp_path, b"application/vnd.in-toto+json" + bytes(1 << 24))
    with pytest.raises(NotFoundError):
        attached_record(bomb)
    assert max(map(len, pdfrecord._embedded(bomb.read_bytes()))) == 1 << 16
