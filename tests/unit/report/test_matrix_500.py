"""The matrix at the size that is promised: 500 bundles in at most a minute."""

from __future__ import annotations

import random
import resource
import time

import pytest
from bundles import make_bundle, make_setting, make_values

from ucaudit.report.matrix.build import MatrixRequest, build_matrix
from ucaudit.report.matrix.page import render_page


def processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


@pytest.mark.slow
@pytest.mark.alone
def test_500_bundles_within_a_minute(tmp_path):
    setting = make_setting(tmp_path)
    draw = random.Random(1)
    for number in range(500):
        values = make_values(n=40, tokens=64, drift=draw.uniform(0, 0.016), seed=number)

        def change(record, number=number):
            reference = record.reference.model_copy(update={"name": f"Model-{number}"})
            return record.model_copy(update={"reference": reference})

        make_bundle(
            setting, tmp_path / "evidence" / f"b{number:03d}", values=values, planned=False, change_record=change
        )
    began, before = time.monotonic(), processor_seconds()
    matrix = build_matrix(MatrixRequest(tmp_path / "evidence", setting.trust, ledger=setting.ledger))
    page = render_page(matrix)
    took, worked = time.monotonic() - began, processor_seconds() - before
    print(f"500 bundles: {took:.1f} s elapsed, {worked:.1f} s of processors, page {len(page) / 1e6:.2f} MB")
    assert len(matrix.rows) == 500 and matrix.population.shown == 500
    assert {row.status for row in matrix.rows} == {"within bound", "out of bound", "inconclusive"}
    # Of all processes together: so one idle core would do it within the minute, and other work does not count.
    assert worked <= 60
