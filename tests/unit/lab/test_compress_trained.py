"""The encoder on trained models: what it gains over plain rounding at the same bits a code."""

import json

import pytest
from measure_models import CORPUS, HERE, SEED, SEQ_LEN, WINDOWS, figures

from ucaudit.lab.compress import Settings, compress
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.lab.measure import measure
from ucaudit.packs.codecs import open_source

MODELS = HERE / "models"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "mamba"])
def test_three_calibrated_bits_are_far_better_than_three_rounded_ones(tmp_path, name):
    recorded = json.loads((MODELS / name / "training.json").read_text(encoding="utf-8"))["measured"]
    rounded = recorded["plainRounding"]["bits"]["3"]["meanKl"]
    settings = Settings(TensorSettings(bits=3, group=64, rank=0))
    with open_source(MODELS / name) as reference:
        compress(reference, tmp_path / "pack", settings, calibration=CORPUS.with_name("bench-calibration.txt"))
        with open_source(tmp_path / "pack") as pack:
            windows = WINDOWS if name == "dense" else 20
            found = figures(
                measure(pack, reference, CORPUS, n=windows, seq_len=SEQ_LEN, seed=SEED, state_dir=tmp_path / "s")
            )
    print(name, found, rounded)
    # Intervals, not estimates: the gain is no luck of the draw.
    assert found["meanKl"][2] < 0.6 * rounded[1]
    assert found["ratio"][0] < recorded["plainRounding"]["bits"]["3"]["ratio"][0]
