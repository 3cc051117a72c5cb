"""llama.cpp's tensor names as Hugging Face names, for the architectures where that is a renaming. Light.

Sources: ``gguf-py/gguf/constants.py`` and ``tensor_mapping.py`` of llama.cpp, its converters (``conversion/*.py``:
which of them reorder the rows of queries and keys), and the models of transformers. Architectures whose converter
does arithmetic on the weights (Gemma adds 1 to its norms, Mamba takes an exponential) cannot be undone bit for bit
and are not here: their tensors keep llama.cpp's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ucaudit.packs.codecs.gguf_header import GgufTensor

TOP: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_ATTENTION: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
_DENSE: Final = _ATTENTION | {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_QK_NORM: Final = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_QKV: Final = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one of llama.cpp's architectures is named by Hugging Face.

    Attributes:
        model_type, model_class: of ``config.json``.
        parts: llama.cpp's name within a layer → Hugging Face's.
        biases: parts that may have a bias.
        experts: parts that hold all experts of a layer, stacked → Hugging Face's name with ``{}`` for the expert.
        interleaved: whether the rows of queries and keys are stored interleaved for the rotary positions.
        head_dim: whether ``config.json`` says the size of a head.
    """

    model_type: str
    model_class: str
    parts: Mapping[str, str]
    biases: tuple[str, ...] = ()
    experts: Mapping[str, str] = field(default_factory=dict)
    interleaved: bool = False
    head_dim: bool = True


_MIXTRAL: Final = Architecture(
    "mixtral",
    "MixtralForCausalLM",
    _ATTENTION | {"ffn_gate_inp": "block_sparse_moe.gate"},
    experts={
        "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
        "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
        "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    },
    interleaved=True,
)
_BY_NAME: Final[dict[str, Architecture]] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _DENSE, biases=(*_QKV, "attn_output"), interleaved=True),
    "granite": Architecture("granite", "GraniteForCausalLM", _DENSE, interleaved=True, head_dim=False),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _DENSE, biases=_QKV, head_dim=False),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _DENSE | _QK_NORM),
    "qwen3moe": Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        _ATTENTION | _QK_NORM | {"ffn_gate_inp": "mlp.gate"},
        experts={
            "ffn_gate_exps": "mlp.experts.{}.gate_proj",
            "ffn_up_exps": "mlp.experts.{}.up_proj",
            "ffn_down_exps": "mlp.experts.{}.down_proj",
        },
    ),
    "phi3": Architecture(
        "phi3",
        "Phi3ForCausalLM",
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        head_dim=False,
    ),
}
MAPPED: Final = (*_BY_NAME, "llama with experts (Mixtral)")
_LAYER: Final = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.(weight|bias)")
POSITIONS: Final = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Tensors that belong to the configuration, not to the weights."""


def architecture_of(name: str, experts: bool) -> Architecture | None:
    """The rules for one of llama.cpp's architectures, or None where there are none."""
    if name == "llama" and experts:
        return _MIXTRAL
    return _BY_NAME.get(name)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a Hugging Face tensor lies: some rows of a stored one.

    Attributes:
        tensor: as stored.
        shape: of the Hugging Face tensor.
        first_row: in the stored tensor, taken as rows of its last axis.
        unit: rows of one head that are stored interleaved; 1 for none.
        file: which of the model's files holds it.
    """

    tensor: GgufTensor
    shape: tuple[int, ...]
    first_row: int = 0
    unit: int = 1
    file: int = 0


def place_tensor(
    rules: Architecture, tensor: GgufTensor, *, layers: int, experts: int, head_size: int, file: int
) -> dict[str, Place] | None:
    """The Hugging Face tensors that a stored one holds, by name; None if the rules do not know it."""
    stem, _, kind = tensor.name.rpartition(".")
    if stem in TOP and kind == "weight":
        return {f"{TOP[stem]}.weight": Place(tensor, tensor.shape, file=file)}
    match = _LAYER.fullmatch(tensor.name)
    if match is None or int(match[1]) >= layers:
        return None
    prefix, part, kind = f"model.layers.{match[1]}.", match[2], match[3]
    if part in rules.experts and kind == "weight" and len(tensor.shape) == 3:
        count, rows, columns = tensor.shape
        if count != experts:
            return None
        return {
            f"{prefix}{rules.experts[part].format(expert)}.weight": Place(
                tensor, (rows, columns), first_row=expert * rows, file=file
            )
            for expert in range(experts)
        }
    if part not in rules.parts or (kind == "bias" and part not in rules.biases):
        return None
    unit = head_size if rules.interleaved and part in ("attn_q", "attn_k") else 1
    return {f"{prefix}{rules.parts[part]}.{kind}": Place(tensor, tensor.shape, unit=unit, file=file)}
