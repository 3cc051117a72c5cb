"""The second verifier: small, sharing no code with ucaudit, and of one mind with it on every fixture."""

import ast
import functools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import make_bundle, make_setting, make_values
from hostile_bundles import GOOD, HOSTILE, lay, load_cases

from conformance import second_verifier
from ucaudit.core.errors import InputError
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.packs.compare import check_files

ROOT = Path(__file__).parents[2]
PROGRAM = Path(second_verifier.__file__)
SCHEMAS = ROOT / "schemas"
STANDARD = {*sys.stdlib_module_names, "cryptography"}
CASES = [name for name, case in load_cases().items() if "zip" not in case]  # it reads directories
REFUSALS = (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError)


RESAMPLED = functools.lru_cache(second_verifier.intervals)


@pytest.fixture(autouse=True)
def resample_the_same_values_once(monkeypatch):
    """Most bundles here have the values of the good one, and 10,000 resamples take a quarter of a second."""
    monkeypatch.setattr(
        second_verifier, "intervals", lambda d, sizes, *rest: RESAMPLED(tuple(d), tuple(sizes), *rest)
    )


def ours(bundle, trust, pack=None) -> bool:
    try:
        opened = open_bundle(bundle)
        result = verify_bundle(opened, load_trust(trust))
        if pack is not None and result.record is not None:
            check_files(opened, result.record, pack, result)
        return result.authentic
    except InputError:
        return False


def theirs(bundle, trust, pack=None) -> bool:
    try:
        second_verifier.Verifier(bundle, trust, SCHEMAS).verify(*([pack] if pack else []))
    except REFUSALS:
        return False
    return True


def clustered(document, **made):
    """Values of windows that share documents."""
    values = make_values(**made)
    return replace(values, documents=tuple(document(window) for window in range(values.n)))


def test_its_size_and_its_imports():
    text = PROGRAM.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {item.name.split(".")[0] for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= STANDARD
    assert "cryptography" in imported


def test_it_loads_nothing_of_ours(tmp_path):
    """On its own, in an interpreter that cannot find ucaudit."""
    program = shutil.copy(PROGRAM, tmp_path / "verifier.py")
    text = f"""
import runpy, sys
sys.path = [p for p in sys.path if not p.endswith({str(ROOT)!r})]
sys.modules["ucaudit"] = None
sys.argv = [{str(program)!r}, {str(GOOD)!r}, {str(HOSTILE / "trust.toml")!r}, {str(SCHEMAS)!r}]
runpy.run_path({str(program)!r}, run_name="__main__")
ours = ("ucaudit", "pydantic", "click")
print([name for name in sys.modules if name.split(".")[0] in ours and sys.modules[name]])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines() == ["accepted: pass", "[]"], done.stderr


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same_of_every_case(name, tmp_path):
    laid = lay(name, tmp_path)
    if laid.case.get("command") == "gate":
        # the policy refuses, not the evidence
        assert ours(laid.bundle, laid.trust)
        assert theirs(laid.bundle, laid.trust)
        return
    pack = laid.pack if "pack" in laid.case else None
    expected = laid.case["expect"]["exit"] == 0
    assert ours(laid.bundle, laid.trust, pack) is expected
    assert theirs(laid.bundle, laid.trust, pack) is expected


def test_both_accept_the_published_fixture():
    fixtures = ROOT / "fixtures"
    assert ours(fixtures / "bundle", fixtures / "trust.toml", fixtures / "pack")
    assert theirs(fixtures / "bundle", fixtures / "trust.toml", fixtures / "pack")


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"values": make_values(drift=0.1)},
        {"values": make_values(n=29)},
        {"values": make_values(n=2, tokens=3)},
        {"values": make_values(drift=0.01, spread=0.02)},
        {"values": make_values(spread=0.0)},
        {"values": make_values(drift=0.0, spread=0.0)},
        {"planned": False},
        {"planned": False, "on_ledger": False},
        {"late_plan": True},
        {"ratio_max": 1.001},
        {"values": clustered(lambda window: window // 3)},
        {"values": clustered(lambda window: window * (window + 7) // 60, n=80)},
        {"values": clustered(lambda window: window // 2, n=80, drift=0.1)},
        {"values": clustered(lambda window: window)},
        {"values": clustered(lambda window: 5)},
        {"values": clustered(lambda window: window // 9, drift=0.0, spread=0.0)},
    ],
    ids=[
        *(
            "plain",
            "failing",
            "n29",
            "n2",
            "wide",
            "even",
            "identical",
            "unplanned",
            "no-log",
            "late-plan",
            "tight",
        ),
        *("even-documents", "uneven-documents", "failing-documents", "a-document-each", "one-document", "equal"),
    ],
)
def test_both_say_the_same_of_what_our_writer_makes(made, tmp_path):
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle", **made)
    expected = not made.get("late_plan")
    assert ours(bundle, setting.trust) is expected
    assert theirs(bundle, setting.trust) is expected


@pytest.mark.parametrize("told", [None, 39, 41])
def test_both_refuse_another_number_of_documents(told, tmp_path):
    """Fewer windows' documents than there are would make the interval shorter than the data allow."""

    def change(record):
        return record.model_copy(update={"results": record.results.model_copy(update={"documents": told})})

    setting = make_setting(tmp_path)
    values = clustered(lambda window: window // 2, n=80)
    bundle = make_bundle(setting, tmp_path / "bundle", values=values, change_record=change)
    assert not ours(bundle, setting.trust)
    assert not theirs(bundle, setting.trust)


def test_both_count_documents_and_not_windows(tmp_path):
    """Fifty windows of ten documents cannot pass: that takes thirty of what is independent."""
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle", values=clustered(lambda window: window // 5, n=50))
    record = open_bundle(bundle).record
    assert record.results.documents == 10 and record.claims[0].verdict == "inconclusive"
    assert ours(bundle, setting.trust) and theirs(bundle, setting.trust)


def test_both_refuse_flipped_bits(tmp_path):
    """A sample over every file: 150 flips, decided alike."""
    bundle = shutil.copytree(GOOD, tmp_path / "bundle")
    total = sum(path.stat().st_size for path in GOOD.iterdir()) * 8
    step = total // 150
    for path in sorted(bundle.iterdir()):
        data = path.read_bytes()
        for position in range(step // 2, len(data) * 8, step):
            changed = bytearray(data)
            changed[position // 8] ^= 1 << position % 8
            path.write_bytes(changed)
            assert not theirs(bundle, HOSTILE / "trust.toml"), (path.name, position)
        path.write_bytes(data)
    assert theirs(bundle, HOSTILE / "trust.toml")
