"""Reading a floor protocol: what is declared, and every way of declaring something else."""

from __future__ import annotations

import pytest

from ucaudit.core.errors import MalformedProtocolError, NotFoundError
from ucaudit.evidence.floors.protocol import load_protocol

GOOD = """
name = "p"
[model]
path = "model"
[measurement]
corpus = "text.txt"
n = 50
[floor]
metric = "pplRatio"
margin = 0.001
[baseline]
bits = 4
rank = 3
steps = 12
calibration = "calibration.txt"
[[perturbation]]
name = "rank-4"
direction = "capacity"
rank = 4
[[perturbation]]
name = "steps-20"
direction = "schedule"
steps = 20
[[perturbation]]
name = "kl"
direction = "objective"
kl_weight = 0.1
"""


def load(tmp_path, text):
    path = tmp_path / "protocol.toml"
    path.write_text(text, encoding="utf-8")
    return load_protocol(path)


def test_what_a_protocol_declares(tmp_path):
    found = load(tmp_path, GOOD)
    protocol = found.protocol
    assert (protocol.name, protocol.metric, protocol.margin, protocol.n) == ("p", "pplRatio", 0.001, 50)
    assert (protocol.seeds, protocol.confirm_n, protocol.confidence) == ((1, 2, 3, 4, 5), 50, 0.95)
    assert found.model == tmp_path / "model" and found.corpus == tmp_path / "text.txt"
    settings = [item.settings for item in protocol.perturbations]
    assert [(s.bits, s.rank, s.steps, s.kl_weight) for s in settings] == [
        (4, 4, 12, 0.0),
        (4, 3, 20, 0.0),
        (4, 3, 12, 0.1),
    ]


def test_a_knob_repeated_from_the_baseline_changes_nothing(tmp_path):
    again = GOOD.replace(
        'direction = "capacity"\nrank = 4', 'direction = "capacity"\nrank = 4\nsteps = 12\nbits = 4'
    )
    assert load(tmp_path, again).protocol == load(tmp_path, GOOD).protocol


BAD = {
    "equal to the baseline": (
        ("rank = 4", "rank = 3"),
        "perturbation rank-4: equal to the baseline: rank is 3 in both",
    ),
    "no knob at all": (("\nrank = 4", ""), "perturbation rank-4: equal to the baseline: rank is 3 in both"),
    "two knobs": (
        ("steps = 20", "steps = 20\nrank = 8"),
        "perturbation steps-20: differs from the baseline in rank; the knob of schedule is steps",
    ),
    "another knob than the direction's": (
        ("\nrank = 4", "\nsteps = 40"),
        "perturbation rank-4: differs from the baseline in steps; the knob of capacity is rank",
    ),
    "bits, which nobody may turn": (
        ("\nrank = 4", "\nrank = 4\nbits = 5"),
        "perturbation rank-4: differs from the baseline in bits",
    ),
    "a knob turned down": (("rank = 4", "rank = 2"), "rank goes down from 3 to 2: that is no attempt to do better"),
    "an objective without training": (
        ("steps = 12\n", "steps = 0\n"),
        "perturbation kl: equal to the baseline: kl_weight has no effect without training",
    ),
    "one perturbation twice": (
        (
            'name = "steps-20"\ndirection = "schedule"\nsteps = 20',
            'name = "again"\ndirection = "capacity"\nrank = 4',
        ),
        "perturbation again: the same as rank-4",
    ),
    "one name twice": (('name = "steps-20"', 'name = "rank-4"'), "two perturbations are called rank-4"),
    "the baseline's name": (('name = "rank-4"', 'name = "baseline"'), "the name is the baseline's"),
    "four seeds": (
        ("margin = 0.001", "margin = 0.001\nseeds = [1, 2, 3, 4]"),
        "at least 5 different encoder seeds are needed, 4 of them",
    ),
    "a seed twice": (("margin = 0.001", "margin = 0.001\nseeds = [1, 2, 3, 4, 4, 5]"), "named twice"),
    "a negative seed": (("margin = 0.001", "margin = 0.001\nseeds = [-1, 2, 3, 4, 5]"), "a seed lies between 0"),
    "no margin": (("margin = 0.001\n", ""), "floor.margin: field required"),
    "a margin of nothing": (("margin = 0.001", "margin = 0"), "floor.margin: input should be greater than 0"),
    "an unknown metric": (("pplRatio", "accuracy"), "floor.metric: input should be 'pplRatio' or 'meanKl'"),
    "an unknown direction": (('"capacity"', '"luck"'), "perturbation[0].direction"),
    "a number in quotes": (("n = 50", 'n = "50"'), "measurement.n"),
    "a rank beyond the format": (("rank = 4", "rank = 2000"), "perturbation rank-4: rank"),
    "no perturbation": ((GOOD[GOOD.index("[[pert") :], ""), "perturbation: field required"),
    "a table for a list": (("[[perturbation]]", "[perturbation]", 3), "not toml"),
    "not toml": (("[floor]", "[floor"), "not toml"),
    "too many encodings": (
        ("margin = 0.001", f"margin = 0.001\nseeds = {list(range(60))}"),
        "240 encodings are asked for, at most 80",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(tmp_path, name):
    change, message = BAD[name]
    with pytest.raises(MalformedProtocolError) as caught:
        load(tmp_path, GOOD.replace(*change))
    assert message in str(caught.value)
    assert "protocol.toml" in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    ("change", "unknown", "meant"),
    [
        (("margin =", "margn ="), "[floor] margn", "did you mean margin"),
        (("[baseline]", "[baselin]"), "baselin", "did you mean baseline"),
        (("kl_weight", "klweight"), "[perturbation] klweight", "did you mean kl_weight"),
        (("corpus =", "korpus ="), "[measurement] korpus", "did you mean corpus"),
    ],
)
def test_did_you_mean(tmp_path, change, unknown, meant):
    with pytest.raises(MalformedProtocolError) as caught:
        load(tmp_path, GOOD.replace(*change))
    assert f"unknown setting {unknown}" in str(caught.value) and caught.value.hint == meant


def test_no_such_file(tmp_path):
    with pytest.raises(NotFoundError):
        load_protocol(tmp_path / "absent.toml")
