"""Tiny random models of each architecture that is mapped from GGUF, and llama.cpp's own converter run on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

COMMON = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_EXPERTS = {"num_experts_per_tok": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-3.2": (
        "Llama",
        {"tie_word_embeddings": True, "max_position_embeddings": 131072, "rope_parameters": LLAMA3},
    ),
    "llama-bias": ("Llama", {"attention_bias": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 3, **_EXPERTS}),
    "granite": (
        "Granite",
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 8.0,
        },
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3moe": (
        "Qwen3Moe",
        {"head_dim": 8, "num_experts": 3, "moe_intermediate_size": 24, "norm_topk_prob": True, **_EXPERTS},
    ),
    "phi3": ("Phi3", {"sliding_window": 64}),
}
_CONVERT = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/gguf-py"]
import convert_hf_to_gguf
import conversion.base as base
original = base.TextModel.prepare_metadata
def without_vocabulary(self, *arguments, **options):
    self.set_vocab = lambda: None
    return original(self, *arguments, **options)
base.TextModel.prepare_metadata = without_vocabulary
convert_hf_to_gguf.main()
"""


def save(family: str, directory: Path) -> Path:
    """A random bf16 checkpoint of the family, its norms and biases random too."""
    name, changes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


def convert(root: Path, checkpoint: Path, target: Path, kind: str) -> None:
    """Run ``convert_hf_to_gguf.py`` of llama.cpp's source tree, leaving the vocabulary out.

    Args:
        root: llama.cpp's source.
        checkpoint: a Hugging Face checkpoint.
        target: the GGUF file to write.
        kind: ``f32``, ``bf16`` or ``q8_0``.
    """
    script = _CONVERT.format(root=str(root))
    command = [sys.executable, "-c", script, str(checkpoint), "--outfile", str(target), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the converter failed: {done.stderr[-2000:]}")
