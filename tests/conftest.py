"""What holds for every test: a process that a test starts can be interrupted; the same figures are derived once."""

import signal

import pytest

from ucaudit.core.stats import bootstrap_t_interval
from ucaudit.core.stats.sample import as_sample
from ucaudit.evidence import bound, claims

# A shell that starts pytest in the background has it ignore SIGINT, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def bootstrap_once():
    """Bundles of the same values are verified a thousand times; their bootstrap is always the same.

    Only what verifies is patched: tests of the bootstrap itself call it.
    """
    known = {}

    def remember(values, confidence, *, seed):
        key = as_sample(values), confidence, seed
        if key not in known:
            known[key] = bootstrap_t_interval(values, confidence, seed=seed)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (bound, claims):
            patch.setattr(module, "bootstrap_t_interval", remember)
        yield
