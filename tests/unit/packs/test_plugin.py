"""The example plug-in of ``tests/plugin``, installed as a package is: by its metadata on the path."""

import struct
import tomllib
from pathlib import Path

import pytest
import torch
import vendorpack

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs import available, open_source
from ucaudit.packs.state import reconstruct_state

PLUGIN = Path(__file__).parents[2] / "plugin"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    [(group, points)] = project["entry-points"].items()
    info = tmp_path / "site" / "ucaudit_example_codec-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    monkeypatch.syspath_prepend(str(PLUGIN / "src"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def pack(path, *, cut=0):
    codes = bytes(range(12))
    layer = struct.pack("<IIf", 3, 4, 0.37) + codes
    return vendorpack.write(
        path, files={"layer_000.uc": layer, "layer_001.uc": layer[: len(layer) - cut] if cut else layer}
    )


def test_without_the_plug_in(tmp_path):
    with pytest.raises(CodecUnavailableError, match="payload format is not public") as caught:
        open_source(pack(tmp_path / "p"))
    assert "entry point 'ultracompress' in the group ucaudit.codecs" in caught.value.hint


def test_with_it(tmp_path, installed):
    assert "ultracompress" in available()
    with open_source(pack(tmp_path / "p"), profile="example-f32-bf16/1") as source:
        wanted = (torch.arange(12, dtype=torch.float32) * 0.37).to(torch.bfloat16).view(3, 4)
        assert torch.equal(source.load("model.layers.1.mlp.up_proj.weight"), wanted)
        assert len(reconstruct_state(source).entries) == 2
        name = "model.layers.0.mlp.up_proj.weight"
        assert b"".join(source.stream(name, chunk_bytes=5)) == b"".join(source.stream(name))


def test_its_errors_are_ours(tmp_path, installed):
    with pytest.raises(MalformedPackError, match="expected 24"):
        open_source(pack(tmp_path / "p", cut=1))
