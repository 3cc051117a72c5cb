"""Resident memory does not grow with the number of layers."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, WIDE = 16, 512, 6144
SCRIPT = """
import re, sys
from pathlib import Path
import torch
from ucaudit.models.streamed import StreamedModel
from ucaudit.packs.codecs import open_source

with open_source(Path(sys.argv[1])) as source:
    model = StreamedModel(source, dtype=torch.float32, device="cpu", threads=2)
    for index in range(model.count):
        with model.loaded(index):
            pass
        print(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")  # noqa: PTH110
def test_memory_stays_as_layers_come_and_go(tmp_path):
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "vocab_size": 256,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (256, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for index in range(LAYERS):
        at = f"model.layers.{index}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (HIDDEN, WIDE)}
        shapes |= {f"{at}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    layer_kb = sum(tensor.numel() for name, tensor in tensors.items() if ".0." in name) * 4 >> 10
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    resident = [int(line) for line in done.stdout.split()]
    assert len(resident) == LAYERS
    assert resident[-1] - min(resident[2:6]) < layer_kb, resident
