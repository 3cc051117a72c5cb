"""One tiny configuration of every family that packs are published for, and of some that are odd in other ways."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama-tied": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": 16}),
    "qwen3": (
        "Qwen3Config",
        {**SMALL, "head_dim": 16, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "phi3": ("Phi3Config", dict(SMALL)),
    "olmo2": ("Olmo2Config", dict(SMALL)),
    "gemma2": ("Gemma2Config", {**SMALL, "head_dim": 16, "sliding_window": 16}),
    "granite": ("GraniteConfig", {**SMALL, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "gpt2": ("GPT2Config", {"vocab_size": 320, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "mixtral": ("MixtralConfig", {**SMALL, **_MOE}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {
            **SMALL,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "mlp_only_layers": [0],
        },
    ),
    "phi-moe": ("PhimoeConfig", {**SMALL, **_MOE}),
    "deepseek-v3": (
        "DeepseekV3Config",
        {
            **SMALL,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    "mamba": (
        "MambaConfig",
        {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0},
    ),
    "mamba2": (
        "Mamba2Config",
        {
            "vocab_size": 320,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "state_size": 16,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 1,
            "pad_token_id": 0,
        },
    ),
}


def make_family(name: str, directory: Path, *, seed: int = 0) -> Path:
    """A random checkpoint of one family in bf16, without a tokenizer."""
    kind, settings = FAMILIES[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are not all alike
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory
