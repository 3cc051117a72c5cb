"""GGUF files of the llama architecture as Hugging Face checkpoints: names, shapes, configuration. Light.

Sources: the names of llama.cpp's ``gguf-py/gguf/constants.py`` (GGUF specification, "Standardized tensor
names"), the configuration keys of the same specification, ``LlamaConfig`` of transformers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs.gguf_header import Array, GgufHeader, GgufTensor, Scalar

_TOP: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER: Final = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.weight")


class LlamaMetadata:
    """The metadata of a llama GGUF file, read with types checked.

    Attributes:
        layers, hidden, feed_forward, heads, key_value_heads, head_size: sizes of the model.

    Raises:
        CodecUnavailableError: another architecture, or a variant with an arithmetic not mapped here.
        MalformedPackError: a key is missing, or has an impossible value.
    """

    def __init__(self, header: GgufHeader, subject: str) -> None:
        self._metadata = header.metadata
        self._subject = subject
        architecture = self._get("general.architecture", str)
        if architecture != "llama":
            raise CodecUnavailableError(
                f"gguf architecture {architecture[:40]!r}: codec not available, llama is read", subject=subject
            )
        if self._metadata.get("llama.expert_count", 0):
            raise CodecUnavailableError("gguf mixture-of-experts models are not read", subject=subject)
        scaling = self._metadata.get("llama.rope.scaling.type", "none")
        if scaling != "none" or "rope_freqs.weight" in header.tensors:
            raise CodecUnavailableError("gguf models with scaled rotary positions are not read", subject=subject)
        self.layers = self._size("llama.block_count")
        self.hidden = self._size("llama.embedding_length")
        self.feed_forward = self._size("llama.feed_forward_length")
        self.heads = self._size("llama.attention.head_count")
        self.key_value_heads = self._size("llama.attention.head_count_kv", self.heads)
        self.head_size = self._size("llama.attention.key_length", self.hidden // self.heads)
        if self._size("llama.attention.value_length", self.head_size) != self.head_size:
            raise CodecUnavailableError(
                "gguf models whose keys and values differ in size are not read", subject=subject
            )
        if self._size("llama.rope.dimension_count", self.head_size) != self.head_size or self.head_size % 2:
            raise CodecUnavailableError("gguf models with partial rotary positions are not read", subject=subject)
        if self.heads % self.key_value_heads:
            raise MalformedPackError(f"{self.heads} heads, {self.key_value_heads} key-value heads", subject=subject)

    def names(self, tensors: Iterable[GgufTensor]) -> dict[str, GgufTensor]:
        """Hugging Face name → stored tensor, every shape checked against the metadata."""
        result: dict[str, GgufTensor] = {}
        for tensor in tensors:
            name = _TOP.get(tensor.name)
            match = _LAYER.fullmatch(tensor.name)
            if match is not None and match[2] in _IN_LAYER and int(match[1]) < self.layers:
                name = f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}.weight"
            if name is None:
                raise CodecUnavailableError(f"gguf tensor {tensor.name!r} is not mapped", subject=self._subject)
            result[name] = tensor
        vocabulary = result["model.embed_tokens.weight"].shape[0] if "model.embed_tokens.weight" in result else 0
        expected = self._shapes(vocabulary)
        for name, shape in expected.items():
            if name not in result:
                raise MalformedPackError(f"tensor {name!r} is missing", subject=self._subject)
            if result[name].shape != shape:
                raise MalformedPackError(
                    f"tensor {result[name].name!r}: expected shape {list(shape)}, found {list(result[name].shape)}",
                    subject=self._subject,
                )
        head = result.get("lm_head.weight")
        if head is not None and head.shape != (vocabulary, self.hidden):
            raise MalformedPackError(f"output.weight has the shape {list(head.shape)}", subject=self._subject)
        return result

    def _shapes(self, vocabulary: int) -> dict[str, tuple[int, ...]]:
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for layer in range(self.layers):
            for part, shape in {
                "input_layernorm": (self.hidden,),
                "self_attn.q_proj": (queries, self.hidden),
                "self_attn.k_proj": (keys, self.hidden),
                "self_attn.v_proj": (keys, self.hidden),
                "self_attn.o_proj": (self.hidden, queries),
                "post_attention_layernorm": (self.hidden,),
                "mlp.gate_proj": (self.feed_forward, self.hidden),
                "mlp.up_proj": (self.feed_forward, self.hidden),
                "mlp.down_proj": (self.hidden, self.feed_forward),
            }.items():
                shapes[f"model.layers.{layer}.{part}.weight"] = shape
        return shapes

    def config(self, *, vocabulary: int, tied: bool) -> dict[str, Any]:
        """``config.json`` of a ``LlamaForCausalLM`` with this metadata."""
        result: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self._size("llama.context_length"),
            "mlp_bias": False,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": self._real("llama.attention.layer_norm_rms_epsilon", None),
            "rope_theta": self._real("llama.rope.freq_base", 10000.0),
            "tie_word_embeddings": tied,
            "vocab_size": vocabulary,
        }
        for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
            token = self._metadata.get(f"tokenizer.ggml.{key}_token_id")
            if type(token) is int and 0 <= token < vocabulary:
                result[f"{name}_token_id"] = token
        return dict(sorted(result.items()))

    def text(self, key: str) -> str | None:
        """A text of the metadata, or None."""
        value = self._metadata.get(key)
        return value if isinstance(value, str) else None

    def _get(self, key: str, kind: type[str]) -> str:
        value = self._metadata.get(key)
        if not isinstance(value, kind):
            raise MalformedPackError(f"metadata {key} is missing or no text", subject=self._subject)
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        value = self._metadata.get(key, default)
        if isinstance(value, Array):
            value = _constant(value)
            if value is None:
                raise CodecUnavailableError(f"metadata {key} differs from layer to layer", subject=self._subject)
        if type(value) is not int or not 1 <= value < 2**31:
            raise MalformedPackError(f"metadata {key}: expected a size, found {value!r:.40}", subject=self._subject)
        return value

    def _real(self, key: str, default: float | None) -> float:
        value = self._metadata.get(key, default)
        if not isinstance(value, float) or not 0.0 < value < float("inf"):
            raise MalformedPackError(
                f"metadata {key}: expected a number, found {value!r:.40}", subject=self._subject
            )
        return shortest_float32(value)


def _constant(array: Array) -> Scalar | None:
    """The one value of an array whose items are all the same."""
    return array.items[0] if array.items and len(set(array.items)) == 1 else None


def shortest_float32(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-05 for the stored 9.999999747378752e-06."""
    stored = struct.pack("<f", value)
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == stored:
            return candidate
    return value
