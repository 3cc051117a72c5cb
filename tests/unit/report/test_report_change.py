"""Section 7: what changed, and whether it changed for the better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from factories import digest_of, make_attestation, make_values

from ucaudit.core.errors import InputError
from ucaudit.core.records import Attestation
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.report.change import Previous, compare
from ucaudit.report.render import render_html

EARLIER = "2026-10-01T08:00:00Z"


def earlier(values: TokenValues | None = None, created: str = EARLIER, **changes: Any) -> Previous:
    values = make_values() if values is None else values
    record = make_attestation(values=values).model_copy(update={"created": created, **changes})
    return Previous(record, digest_of(f"envelope {created}"), values, "before@example.org")


def test_the_same_pack_twice(record: Attestation, values: TokenValues) -> None:
    view = compare(record, values, earlier(values))
    assert not any(row.changed for row in view.rows)
    assert "No claim has another verdict." in view.summary
    assert view.paired == "Both packs gave every token the same probability."


def test_a_worse_pack_is_called_worse(values: TokenValues) -> None:
    worse = replace(values, pack=type(values.pack)("f", [value - 0.01 for value in values.pack]))
    now = make_attestation(values=worse)
    assert "this pack predicts worse than the previous one" in compare(now, worse, earlier(values)).paired
    before = earlier(worse)
    better = compare(make_attestation(values=values), values, before)
    assert "this pack predicts better than the previous one" in better.paired
    # every token lost 0.01 nats: the ratio is e^0.01 whatever the window, and the sentence prints it
    assert "1.01" in compare(now, worse, earlier(values)).paired


def test_other_tokens_are_not_paired(record: Attestation, values: TokenValues) -> None:
    measurement = record.measurement.model_copy(update={"tokens_digest": digest_of("other tokens")})
    view = compare(record, values, earlier(values, measurement=measurement))
    assert view.paired.startswith("not assessed side by side: the two records scored different tokens")
    assert [row.name for row in view.rows if row.changed] == ["Scored tokens"]


@pytest.mark.parametrize("side", ["now", "before"])
def test_without_the_per_token_files(record: Attestation, values: TokenValues, side: str) -> None:
    before = earlier(values)
    if side == "before":
        before = replace(before, values=None)
    view = compare(record, values if side == "before" else None, before)
    assert "per-token files of both records were not given" in view.paired


def test_claims_that_came_and_went(record: Attestation, values: TokenValues) -> None:
    dropped = record.claims[0].id
    before = earlier(values, claims=record.claims[1:])
    rows = {row.id: row for row in compare(record, values, before).claims}
    assert rows[dropped].limit_before == "not in that record"
    back = compare(record.model_copy(update={"claims": record.claims[1:]}), values, earlier(values))
    assert {row.id: row.limit for row in back.claims}[dropped] == "not in that record"
    assert f"Claims with another verdict: {dropped}." in back.summary


def test_a_changed_pack_is_named(make_view: Any, record: Attestation, values: TokenValues) -> None:
    pack = record.pack.model_copy(update={"pack_digest": digest_of("older pack"), "name": "older <pack>"})
    text = render_html(make_view("fda", previous=[earlier(values, pack=pack)]))
    assert "Changed: pack, pack digest." in text
    assert "older &lt;pack&gt;" in text
    assert "before@example.org" in text


def test_the_latest_is_compared_and_all_are_listed(make_view: Any, values: TokenValues) -> None:
    items = [earlier(values, f"2026-0{month}-01T08:00:00Z") for month in (3, 9, 5)]
    view = make_view("fda", previous=items)
    assert "2026-09-01T08:00:00Z" in view.change.summary
    assert [row.created[:7] for row in view.versions] == ["2026-11", "2026-09", "2026-05", "2026-03"]


def test_what_is_no_earlier_attestation_is_refused(
    make_view: Any, record: Attestation, values: TokenValues
) -> None:
    before = earlier(values)
    for previous, words in (
        ([Previous(record, digest_of("envelope"), values)], "this record itself"),
        ([before, before], "given twice"),
        ([earlier(values, "2027-01-01T00:00:00Z")], "made later"),
    ):
        with pytest.raises(InputError, match=words):
            make_view(previous=previous)


def test_without_a_previous_one_it_says_so(make_view: Any) -> None:
    text = render_html(make_view("fda"))
    assert "not assessed: no previous attestation was given for comparison." in text
    assert "Earlier versions of this modification: not assessed, none were given." in text
