"""Every error says what to do next: its own hint, or its class's."""

import pytest

from ucaudit.core import errors
from ucaudit.core.errors import UcauditError

CLASSES = [
    item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, UcauditError) and item is not UcauditError
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_hint(kind):
    assert (hint := kind("m").hint)
    assert not hint.endswith(".")
    assert hint.isprintable()
    assert "default_hint" in vars(kind), "each has a hint of its own, not that of the branch"
    assert kind("m", hint="exact").hint == "exact"


def test_codes_are_stable_names_of_one_class_each():
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
