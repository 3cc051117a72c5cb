"""Recognising formats by content, and codecs by our own registry only."""

import json

import pytest

from ucaudit.core.errors import CodecUnavailableError, InputError, MalformedPackError
from ucaudit.packs.codecs import available, codec_factory, open_source
from ucaudit.packs.detect import detect_format
from ucaudit.packs.opened import open_pack

EMPTY = (2).to_bytes(8, "little") + b"{}"
LLAMA = json.dumps({"model_type": "llama"}).encode()


def detect(path, **files):
    for name, data in files.items():
        (path / name.replace("DOT", ".").replace("DASH", "-")).write_bytes(data)
    return detect_format(open_pack(path))


def test_each_format(tmp_path):
    for index, (name, files) in enumerate(
        [
            ("ucq", {"manifestDOTjson": b'{"format":"ucq"}', "otherDOTsafetensors": b"", "configDOTjson": LLAMA}),
            ("safetensors", {"modelDOTsafetensors": EMPTY, "configDOTjson": LLAMA}),
            ("gguf", {"xDOTgguf": b"GGUFxxxx", "READMEDOTmd": b"hi"}),
        ]
    ):
        (tmp_path / str(index)).mkdir()
        found = detect(tmp_path / str(index), **files)
        assert (found.name, found.unavailable) == (name, None)


@pytest.mark.parametrize(
    "files",
    [
        {"manifestDOTjson": b'{"uc_pack_version":1,"n_layers":2,"bpw":5}', "layer_0DOTuc": b"x"},
        {"manifestDOTjson": b"[]", "layer_000DOTuc": b"x"},
        {"manifestDOTjson": b'\xef\xbb\xbf{"n_layers":2}', "layer_000DOTuc": b"x"},
        {"manifestDOTjson": b'{"n_layers":"2","base_model_hf_id":"x/y"}'},
        {"layer_000DOTuc": b"x"},
    ],
)
def test_a_vendor_pack_is_recognised_and_its_codec_unavailable(tmp_path, files):
    assert detect(tmp_path, **files).name == "ultracompress"
    with pytest.raises(CodecUnavailableError, match="codec not available") as caught:
        open_source(tmp_path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("section", "name", "word"),
    [
        ({"quant_method": "hqq", "bits": 4}, "hqq", "hqq"),
        ({"quant_method": "exl3"}, "exl3", "exl3"),
        ({"quant_method": "brand-new"}, "unknown-quantisation", "brand-new"),
        ({"quant_method": "gguf"}, "unknown-quantisation", "gguf"),
        ({"quant_method": "os:system"}, "unknown-quantisation", "unknown"),
        ({}, "unknown-quantisation", "unknown"),
        ("text", "unknown-quantisation", "unknown"),
    ],
)
def test_a_quantised_checkpoint_names_its_method_and_never_a_codec(tmp_path, section, name, word):
    config = json.dumps({"quantization_config": section}).encode()
    assert detect(tmp_path, configDOTjson=config, modelDOTsafetensors=b"").name == name
    with pytest.raises(CodecUnavailableError, match=word):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"READMEDOTmd": b"x"}, InputError, "no known pack format"),
        ({"manifestDOTjson": b'{"format":"ucx"}'}, InputError, "unknown pack format 'ucx'"),
        ({"manifestDOTjson": b'{"format":"ucq","format":"ucq"}'}, MalformedPackError, "duplicate"),
        ({"manifestDOTjson": b"[1]"}, MalformedPackError, "json object"),
        ({"manifestDOTjson": b"{"}, MalformedPackError, "not json"),
        ({"aDOTgguf": b"GGUF", "bDOTgguf": b"GGUF"}, InputError, "2 gguf files"),
        ({"aDOTgguf": b"JPEG"}, MalformedPackError, "starts with"),
        ({"modelDOTsafetensors": b""}, InputError, "no config.json"),
        ({"modelDOTsafetensors": b"", "configDOTjson": b"[]"}, MalformedPackError, "json object"),
        ({"modelDOTsafetensors": b"", "configDOTjson": LLAMA, "aDOTgguf": b"GGUF"}, InputError, "ambiguous"),
        (
            {"modelDOTsafetensors": b"", "configDOTjson": LLAMA, "manifestDOTjson": b'{"format":"ucq"}'},
            InputError,
            "ambiguous",
        ),
    ],
)
def test_nothing_known_or_several(tmp_path, files, error, message):
    with pytest.raises(error, match=message):
        detect(tmp_path, **files)


@pytest.mark.parametrize("names", [["m-00001-of-00002"], ["m-00001-of-00001", "n"], ["m-00002-of-00002"]])
def test_a_split_gguf_needs_all_its_files_and_no_other(tmp_path, names):
    for name in names:
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"split over \d gguf files") as caught:
        open_source(tmp_path)
    assert "all of its files" in caught.value.hint


def test_the_registry_suggests_and_refuses():
    assert {"gguf", "safetensors", "ucq"} <= set(available())
    with pytest.raises(CodecUnavailableError) as caught:
        codec_factory("safetensor")
    assert caught.value.hint == "did you mean safetensors?"
    with pytest.raises(CodecUnavailableError):
        codec_factory("os:system")


def test_a_plug_in_is_found_by_entry_point_and_cannot_replace_a_built_in_codec(tmp_path, monkeypatch):
    package = tmp_path / "site"
    (package / "plug-1.0.dist-info").mkdir(parents=True)
    (package / "plug-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (package / "plug-1.0.dist-info" / "entry_points.txt").write_text(
        "[ucaudit.codecs]\nultracompress = plug_codec:open_it\nucq = plug_codec:open_it\nhqq = plug_missing:x\n"
    )
    (package / "plug_codec.py").write_text("def open_it(pack):\n    return ('plug', pack.name)\n")
    monkeypatch.syspath_prepend(str(package))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "layer_0.uc").write_bytes(b"x")
    assert open_source(tmp_path / "p") == ("plug", "p")
    assert codec_factory("ucq").__module__ == "ucaudit.packs.codecs.ucq"
    with pytest.raises(CodecUnavailableError, match="cannot be loaded"):
        codec_factory("hqq")
