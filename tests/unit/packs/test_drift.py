"""How far a drifted tensor is: measured from a good copy, and only from a good one."""

import math
import shutil

import pytest
from bundles import make_bundle, make_setting
from tinypack import COLUMNS, TENSORS, bf16

from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.checks import Verification
from ucaudit.packs.compare import check_state


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def bundle(setting):
    return open_bundle(make_bundle(setting, setting.root / "bundle"))


def drifted(setting, tmp_path, name="drifted", values=(3.0, 1.0)):
    """The pack with the first elements of its norm, all ones, replaced."""
    pack = shutil.copytree(setting.pack, tmp_path / name)
    data = (pack / TENSORS).read_bytes()
    ones = bf16([1] * COLUMNS)
    at = data.rindex(ones)
    (pack / TENSORS).write_bytes(data[:at] + bf16(values) + data[at + 2 * len(values) :])
    return pack


def found(bundle, pack, **how):
    result = Verification()
    result.add("pack-files", "files", None, "made up")
    check_state(bundle, pack, result, **how)
    return result.checks[-1]


def test_without_a_copy_it_only_drifted(setting, bundle, tmp_path):
    check = found(bundle, drifted(setting, tmp_path))
    assert check.items == (check.detail.removeprefix("drifted: "),)
    assert check.items[0].startswith("model.norm: expected ") and "elements" not in check.items[0]
    assert check.error.reason == "state-drift" and "a good copy of the pack tells how far" in check.error.hint


def test_with_a_copy_it_is_said_how_far(setting, bundle, tmp_path):
    check = found(bundle, drifted(setting, tmp_path, values=(3.0, 0.5)), good=setting.pack, threads=2)
    relative = math.sqrt((2.0**2 + 0.5**2) / COLUMNS)
    assert check.items[0].endswith(f"; 2 of 64 elements differ, by 2 at most, relative error {relative:.3g}")


def test_a_value_that_is_no_number(setting, bundle, tmp_path):
    check = found(bundle, drifted(setting, tmp_path, values=(math.nan, 5.0)), good=setting.pack)
    assert "2 of 64 elements differ, by nan at most, relative error nan" in check.items[0]


def test_minus_zero_is_another_element(setting, bundle, tmp_path):
    good = drifted(setting, tmp_path, "good", values=(0.0,))
    check = found(bundle, drifted(setting, tmp_path, values=(-0.0,)), good=good)
    assert "the good copy's own tensor drifted too" in check.items[0]


def test_a_copy_that_drifted_is_no_measure(setting, bundle, tmp_path):
    bad = drifted(setting, tmp_path, "bad", values=(7.0,))
    check = found(bundle, drifted(setting, tmp_path), good=bad)
    assert check.items[0].endswith("; the good copy's own tensor drifted too, so there is nothing to measure from")


def test_a_good_pack_needs_no_copy(setting, bundle):
    assert found(bundle, setting.pack, good=setting.root / "nowhere").status == "pass"
