"""What entries say, how plans meet their results, and the population an auditor draws from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from bundles import Setting, make_bundle, make_setting, make_values
from hypothesis import given
from hypothesis import strategies as st

from ucaudit import __version__
from ucaudit.core.errors import MalformedRecordError, RefusedError, UcauditError
from ucaudit.core.records import Abandonment, Endorsement, Subject, Tool, make_statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.ledger import (
    Ledger,
    LedgerEntry,
    entry_for,
    find,
    in_period,
    ledger_entry,
    register,
    to_csv,
)
from ucaudit.evidence.ledger.population import population_of as population
from ucaudit.evidence.signing import Envelope, sign

A, B, C, PACK, OTHER_PACK = "a" * 64, "b" * 64, "c" * 64, "1" * 64, "2" * 64
WHEN = "2026-03-01T12:00:00Z"
TOOL = Tool(name="ucaudit", version=__version__)


def entry(kind, envelope=A, when=WHEN, pack=PACK, determination=None, plan=None) -> bytes:
    if kind == "attestation" and determination is None:
        determination = "pass"
    return ledger_entry(
        kind,
        envelope,
        f"urn:ucaudit:predicate:{kind}:v1",
        when,
        pack_digest=pack,
        determination=determination,
        plan_sha256=plan,
    )


# --- one entry ----------------------------------------------------------------------------------------
def test_its_bytes_are_canonical_json() -> None:
    data = entry("attestation", determination="fail", plan=B)
    assert data == (
        b'{"determination":"fail","envelopeSha256":"' + b"a" * 64 + b'","kind":"attestation","packDigest":"'
        b"1111111111111111111111111111111111111111111111111111111111111111"
        b'","planSha256":"'
        + b"b" * 64
        + b'","predicateType":"urn:ucaudit:predicate:attestation:v1","recordedAt":"2026-03-01T12:00:00Z"}'
    )
    assert LedgerEntry.parse(data, subject="entry").to_bytes() == data


@given(st.data())
def test_a_changed_byte_never_passes_unnoticed(data: st.DataObject) -> None:
    original = entry("attestation", determination="fail", plan=B)
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = LedgerEntry.parse(bytes(changed), subject="entry")
    except MalformedRecordError:
        return
    assert parsed.to_bytes() == bytes(changed)


GOOD = json.loads(entry("attestation", plan=B))
HOSTILE: dict[str, bytes] = {
    "not json": b"entry",
    "empty": b"",
    "a list": b"[]",
    "spaces": json.dumps(GOOD, sort_keys=True).encode(),
    "unsorted": json.dumps(dict(reversed(GOOD.items())), separators=(",", ":")).encode(),
    "duplicate key": entry("attestation").replace(b"{", b'{"kind":"plan",', 1),
    "final newline": entry("attestation") + b"\n",
    "escaped letter": entry("attestation").replace(b'"pass"', b'"p\\u0061ss"'),
    "null member": entry("attestation").replace(b"}", b',"zero":null}'),
    **{
        name: json.dumps({**GOOD, **change}, sort_keys=True, separators=(",", ":")).encode()
        for name, change in {
            "unknown member": {"comment": "x"},
            "explicit null": {"planSha256": None},
            "unknown kind": {"kind": "diary"},
            "kind of another type": {"kind": "floor"},
            "foreign predicate type": {"predicateType": "https://slsa.dev/provenance/v1"},
            "predicate type with formula": {"predicateType": "=1+1"},
            "upper-case digest": {"envelopeSha256": "A" * 64},
            "short digest": {"packDigest": "1" * 63},
            "digest and newline": {"packDigest": "1" * 64 + "\n"},
            "31 February": {"recordedAt": "2026-02-31T00:00:00Z"},
            "local time": {"recordedAt": "2026-03-01T12:00:00+01:00"},
            "fractional seconds": {"recordedAt": "2026-03-01T12:00:00.5Z"},
            "unknown determination": {"determination": "excellent"},
            "number for text": {"determination": 1},
        }.items()
    },
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_entry_that_is_none(case: str) -> None:
    with pytest.raises(MalformedRecordError, match=r"^entry 7: "):
        LedgerEntry.parse(HOSTILE[case], subject="entry 7")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("plan", {"pack": None}),
        ("plan", {"plan": B}),
        ("plan", {"determination": "pass"}),
        ("attestation", {"pack": None}),
        ("abandonment", {}),
        ("abandonment", {"plan": B, "determination": "fail"}),
        ("endorsement", {"plan": B}),
    ],
)
def test_parts_that_contradict_the_kind(kind: str, fields: dict[str, str]) -> None:
    with pytest.raises(MalformedRecordError):
        entry(kind, **fields)


def test_an_attestation_without_determination() -> None:
    with pytest.raises(MalformedRecordError, match="attestation without determination"):
        ledger_entry("attestation", A, "urn:ucaudit:predicate:attestation:v1", WHEN, pack_digest=PACK)


# --- from envelopes -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("entries"))


@pytest.fixture(scope="module")
def made(setting: Setting) -> Path:
    return make_bundle(setting, setting.root / "bundle", values=make_values(drift=0.1))


def load(path: Path) -> Envelope:
    return Envelope.parse(path.read_bytes(), subject=path.name)


def signed(setting: Setting, predicate, digest: str) -> Envelope:
    statement = make_statement(predicate, [Subject("it", digest)])
    return sign(statement.to_bytes(), setting.signer)


def abandonment(plan: str) -> Abandonment:
    return Abandonment(created=WHEN, tool=TOOL, plan_digest=plan, reason="the text was withdrawn")


def test_entries_of_real_envelopes(setting: Setting, made: Path) -> None:
    plan, attestation = load(made / names.PLAN), load(made / names.ATTESTATION)
    of_plan, of_result = entry_for(plan, WHEN), entry_for(attestation, WHEN)
    assert (of_plan.kind, of_plan.envelope_sha256, of_plan.plan_sha256) == ("plan", plan.digest, None)
    assert (of_result.kind, of_result.determination, of_result.plan_sha256) == ("attestation", "fail", plan.digest)
    assert of_plan.pack_digest == of_result.pack_digest
    assert of_plan.pack_digest is not None
    given_up = entry_for(signed(setting, abandonment(plan.digest), plan.digest), WHEN)
    assert (given_up.kind, given_up.plan_sha256, given_up.pack_digest) == ("abandonment", plan.digest, None)
    endorsement = Endorsement(
        created=WHEN,
        tool=TOOL,
        attestation_digest=attestation.digest,
        printed_name="A. Validator",
        role="validator",
        meaning="review",
    )
    assert entry_for(signed(setting, endorsement, attestation.digest), WHEN).kind == "endorsement"


def test_a_closing_statement_is_not_entered(made: Path) -> None:
    with pytest.raises(RefusedError, match="a bundle statement is not entered"):
        entry_for(load(made / names.CLOSING), WHEN)


def test_another_payload_type_is_not_read(made: Path) -> None:
    document = json.loads((made / names.ATTESTATION).read_bytes())
    document["payloadType"] = "application/json"
    envelope = Envelope.parse(json.dumps(document).encode(), subject="e.json")
    with pytest.raises(MalformedRecordError, match="payload type 'application/json'"):
        entry_for(envelope, WHEN)


def test_registering_twice_is_one_entry(setting: Setting, made: Path, tmp_path: Path) -> None:
    ledger = Ledger.init(tmp_path / "ledger", "example.com/evidence", setting.signer)
    plan, attestation = load(made / names.PLAN), load(made / names.ATTESTATION)
    twice = (plan, attestation, plan, attestation)
    assert [register(ledger, item, setting.signer) for item in twice] == [0, 1, 0, 1]
    assert (ledger.size, find(ledger, attestation.digest), find(ledger, A)) == (2, 1, None)
    rows = population(ledger.entries())
    assert [(row.status, row.related) for row in rows] == [("closed", 1), ("planned", 0)]


def test_only_a_plan_that_is_there_can_be_abandoned(setting: Setting, made: Path, tmp_path: Path) -> None:
    ledger = Ledger.init(tmp_path / "ledger", "example.com/evidence", setting.signer)
    plan = load(made / names.PLAN)
    given_up = signed(setting, abandonment(plan.digest), plan.digest)
    with pytest.raises(RefusedError, match="is not in this ledger"):
        register(ledger, given_up, setting.signer)
    register(ledger, plan, setting.signer)
    register(ledger, given_up, setting.signer)
    assert [row.status for row in population(ledger.entries())] == ["abandoned", "recorded"]


# --- plans and results --------------------------------------------------------------------------------
def states(*entries: bytes) -> list[tuple[str, int | None, tuple[str, ...]]]:
    return [(row.status, row.related, row.notes) for row in population(entries)]


def test_a_plan_waits_for_its_result() -> None:
    assert states(entry("plan")) == [("open", None, ())]
    assert states(entry("plan"), entry("attestation", B, plan=A, determination="fail")) == [
        ("closed", 1, ()),
        ("planned", 0, ()),
    ]
    assert states(entry("plan"), entry("abandonment", B, plan=A, pack=None)) == [
        ("abandoned", 1, ()),
        ("recorded", 0, ()),
    ]
    floor = entry("floor", B, plan=A, pack=None, determination="pass")
    assert states(entry("floorplan", pack=None), floor) == [("closed", 1, ()), ("planned", 0, ())]
    assert states(entry("plan"), floor) == [("open", None, ()), ("unplanned", None, ("plan-of-another-kind",))]


def test_results_that_close_no_plan() -> None:
    assert states(entry("attestation")) == [("unplanned", None, ())]
    assert states(entry("attestation", B, plan=A), entry("plan")) == [
        ("unplanned", None, ("plan-not-entered-before",)),
        ("open", None, ()),
    ]
    assert states(entry("plan"), entry("attestation", B, plan=A, pack=OTHER_PACK)) == [
        ("open", None, ()),
        ("unplanned", None, ("plan-of-another-pack",)),
    ]


def test_a_second_result_shows() -> None:
    assert states(
        entry("plan"),
        entry("attestation", B, plan=A, determination="fail"),
        entry("attestation", C, plan=A, determination="pass"),
    ) == [("closed", 1, ()), ("planned", 0, ()), ("planned", 0, ("plan-already-closed",))]
    assert states(
        entry("plan"),
        entry("abandonment", B, plan=A, pack=None),
        entry("attestation", C, plan=A),
    )[2] == ("planned", 0, ("plan-already-abandoned",))


def test_oddities_are_noted() -> None:
    assert states(entry("plan"), entry("plan"))[1] == ("recorded", None, ("plan-entered-twice",))
    later, earlier = entry("plan", A), entry("plan", B, when="2026-02-01T00:00:00Z")
    assert states(later, earlier)[1] == ("open", None, ("time-goes-backwards",))
    [row] = population([b'{"kind":"from the future"}'])
    assert (row.index, row.entry, row.status) == (0, None, "unreadable")
    assert row.notes


def test_a_period_is_complete() -> None:
    january, february, march = (f"2026-0{month}-10T00:00:00Z" for month in (1, 2, 3))
    rows = population(
        [
            entry("plan", "1" * 64, when=january),  # 0: closed in January
            entry("attestation", "2" * 64, when=january, plan="1" * 64),
            entry("plan", "3" * 64, when=january),  # 2: closed in February
            entry("plan", "4" * 64, when=january),  # 3: never closed
            entry("attestation", "5" * 64, when=february, plan="3" * 64, determination="fail"),
            b"unreadable",
            entry("plan", "6" * 64, when=february),  # 6: abandoned in March
            entry("abandonment", "7" * 64, when=march, plan="6" * 64, pack=None),
        ]
    )

    def chosen(start, end):
        return [(row.index, row.carried_over) for row in in_period(rows, start, end).rows]

    february_whole = ("2026-02-01T00:00:00Z", "2026-02-28T23:59:59Z")
    assert chosen(*february_whole) == [(2, True), (3, True), (4, False), (5, False), (6, False)]
    assert chosen(None, None) == [(index, False) for index in range(8)]
    assert [index for index, _ in chosen(None, january)] == [0, 1, 2, 3, 5]
    for start, end in [(None, None), february_whole, (january, january), ("2026-05-01T00:00:00Z", None)]:
        period = in_period(rows, start, end)
        assert period.gaps == ()
    assert (period.first, period.end) == (8, 8)
    assert (in_period(rows, *february_whole).first, in_period(rows, *february_whole).end) == (4, 7)
    assert chosen(february, february) == chosen(*february_whole)
    assert chosen("2026-03-01T00:00:00Z", None) == [(3, True), (5, False), (6, True), (7, False)]


def test_csv_and_json_say_the_same() -> None:
    rows = population([entry("plan"), b"\xff", entry("attestation", B, plan=A, determination="inconclusive")])
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["status"] for line in table] == ["closed", "unreadable", "planned"]
    for line, row in zip(table, rows, strict=True):
        document = row.to_document()
        assert set(line) == set(document)
        for name in ("index", "kind", "determination", "envelopeSha256", "relatedIndex", "recordedAt"):
            assert line[name] == ("" if document[name] is None else str(document[name]))
    assert table[1]["notes"] == "not utf-8 at byte 0"


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_every_entry_is_a_row(entries: list[bytes]) -> None:
    try:
        rows = population(entries)
    except UcauditError as error:
        pytest.fail(f"{error}")
    assert [row.index for row in rows] == list(range(len(entries)))
