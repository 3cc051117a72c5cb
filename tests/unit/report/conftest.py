"""A synthetic record and its views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from factories import digest_of, make_attestation, make_attestation_statement, make_values

from ucaudit.core.records import Attestation
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.report import ReportView, build_view

MakeView = Callable[..., ReportView]


@pytest.fixture(scope="session")
def values() -> TokenValues:
    return make_values()


@pytest.fixture(scope="session")
def record(values: TokenValues) -> Attestation:
    return make_attestation(values=values)


@pytest.fixture
def make_view(record: Attestation, values: TokenValues) -> MakeView:
    def make(profile: str = "soc2", *, of: Attestation | None = None, **options: Any) -> ReportView:
        arguments: dict[str, Any] = {
            "envelope_digest": digest_of("envelope"),
            "signer_key_id": digest_of("key"),
            "principal": "release@example.org",
            "endorsements": (),
            "values": values,
            "ledger": None,
            "profile": profile,
        }
        return build_view(make_attestation_statement(of or record), **(arguments | options))

    return make
