"""What the tests of the encoder share: a tiny model and a text to calibrate on."""

import pytest
from tinymodels import make_model, make_text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "text.txt"
    path.write_text(make_text(), encoding="utf-8")
    return path
