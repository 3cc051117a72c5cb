"""Lists in docs/ that repeat a list of the code: they name exactly the same things."""

import re
from pathlib import Path

from ucaudit.evidence import bundle as names
from ucaudit.evidence.trust import PREDICATES

DOCS = Path(__file__).parents[2] / "docs"


def quoted(text):
    return set(re.findall(r"`([^`]+)`", text))


def test_every_type_of_record_is_in_the_page_on_trust():
    (line,) = re.findall(r"^predicate-types = .*# of: (.*)$", (DOCS / "trust.md").read_text(), re.MULTILINE)
    assert set(line.split(", ")) == set(PREDICATES)


def test_every_file_of_a_bundle_is_in_the_page_on_the_record():
    page = (DOCS / "record-format.md").read_text()
    table = page.split("## Bundle")[1].split("| file | is |")[1].split("\n\n")[0]
    listed = {name for row in table.splitlines()[2:] for name in quoted(row.split("|")[1])}
    made = {name for key, name in vars(names).items() if key.isupper() and isinstance(name, str) and key[0] != "_"}
    made -= {names.REPORT_PREFIX}
    made |= set(names.VALUE_FILES)
    patterns = {"report-*", "nll-*.safetensors", "timestamp-2.tsr", "timestamp-99.tsr"}
    assert listed - patterns == made - {"nll-reference.safetensors", "nll-pack.safetensors"}


def test_the_floor_study_says_what_its_bundles_say(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS.parent / "scripts"))
    import floor_study

    text = floor_study.PAGE.read_text(encoding="utf-8")
    assert floor_study.figures() in text
    for name, record in floor_study.records().items():
        assert f"### {name}\n" in text and record.results.reason in text


def test_every_codec_and_profile_is_in_the_page_on_formats():
    import importlib

    from ucaudit.packs.codecs import _BUILT_IN
    from ucaudit.packs.codecs.base import TensorSource

    for target in set(_BUILT_IN.values()):
        importlib.import_module(target.split(":")[0])

    def below(kind):
        return {kind, *(each for child in kind.__subclasses__() for each in below(child))}

    known = [
        kind for kind in below(TensorSource) if kind.__module__.startswith("ucaudit.") and "codec" in vars(kind)
    ]
    rows = (DOCS / "formats.md").read_text().split("| what it computes |")[1].split("\n\n")[0].splitlines()[2:]
    listed: dict[str, set[str]] = {}
    codec = ""
    for row in rows:
        cells = row.split("|")
        codec = next(iter(quoted(cells[1])), codec)
        listed.setdefault(codec, set()).update(quoted(cells[3]))
    assert listed == {kind.codec: set(kind.profiles or (kind.arithmetic_profile,)) for kind in known}
