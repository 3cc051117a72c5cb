"""A GGUF file's metadata as a Hugging Face model: sizes, names and shapes of its tensors, configuration. Light.

Sources: the keys of the GGUF specification, llama.cpp's converters, the configurations of transformers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs.gguf_header import Array, GgufHeader, GgufTensor, Scalar
from ucaudit.packs.codecs.gguf_names import MAPPED, POSITIONS, Place, architecture_of, place_tensor

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
ReadFloats = Callable[[str], tuple[float, ...]]
_LLAMA3: Final = tuple((factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0, 16.0, 4.0, 2.0, 64.0))
"""Settings of ``rope_type: llama3`` that models were published with; a file only has their result."""


class GgufModel:
    """The metadata of a GGUF file, read with types checked.

    Attributes:
        architecture: llama.cpp's name.
        rules: how Hugging Face names it; None where its tensors keep llama.cpp's names.

    Raises:
        CodecUnavailableError: a variant of a known architecture with an arithmetic not mapped here.
        MalformedPackError: a key is missing, or has an impossible value.
    """

    def __init__(self, header: GgufHeader, subject: str) -> None:
        self._metadata = header.metadata
        self._subject = subject
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise MalformedPackError("metadata general.architecture is missing or no text", subject=subject)
        self.architecture = name
        self.experts = self._count("expert_count")
        self.rules = architecture_of(name, bool(self.experts))
        self._position_tensors: set[str] = set()
        if self.rules is not None:
            self._read_sizes()

    def _read_sizes(self) -> None:
        subject = self._subject
        self.layers = self._size("block_count")
        self.hidden = self._size("embedding_length")
        self.heads = self._size("attention.head_count")
        self.key_value_heads = self._size("attention.head_count_kv", self.heads)
        self.head_size = self._size("attention.key_length", self.hidden // self.heads)
        self.feed_forward = self._size("feed_forward_length", 0 if self.experts else None)
        self.expert_size = self._size("expert_feed_forward_length", self.feed_forward) if self.experts else 0
        if self._count("expert_shared_count") or self._count("leading_dense_block_count"):
            raise CodecUnavailableError("gguf models with shared experts are not mapped", subject=subject)
        if self._size("attention.value_length", self.head_size) != self.head_size:
            raise CodecUnavailableError(
                "gguf models whose keys and values differ in size are not mapped", subject=subject
            )
        if self._size("rope.dimension_count", self.head_size) != self.head_size or self.head_size % 2:
            raise CodecUnavailableError("gguf models with partial rotary positions are not mapped", subject=subject)
        scaling = self._metadata.get(f"{self.architecture}.rope.scaling.type", "none")
        if scaling not in ("none", "longrope") or (scaling == "longrope" and self.architecture != "phi3"):
            raise CodecUnavailableError(
                f"gguf models with scaled rotary positions ({scaling!r:.40}) are not mapped", subject=subject
            )
        if self.heads % self.key_value_heads:
            raise MalformedPackError(f"{self.heads} heads, {self.key_value_heads} key-value heads", subject=subject)

    def places(self, files: Sequence[Sequence[GgufTensor]]) -> dict[str, Place]:
        """Tensor name → where it lies, every shape checked against the metadata."""
        result: dict[str, Place] = {}
        for index, tensors in enumerate(files):
            for tensor in tensors:
                if self.rules is None:
                    found: dict[str, Place] | None = {tensor.name: Place(tensor, tensor.shape, file=index)}
                elif tensor.name in POSITIONS:
                    self._position_tensors.add(tensor.name)
                    continue
                else:
                    found = place_tensor(
                        self.rules,
                        tensor,
                        layers=self.layers,
                        experts=self.experts,
                        head_size=self.head_size,
                        file=index,
                    )
                if found is None:
                    raise CodecUnavailableError(f"gguf tensor {tensor.name!r} is not mapped", subject=self._subject)
                if found.keys() & result.keys():
                    raise MalformedPackError(f"tensor {tensor.name!r} twice", subject=self._subject)
                result |= found
        if self.rules is not None:
            self._check_shapes(result)
        return result

    def _check_shapes(self, found: dict[str, Place]) -> None:
        vocabulary = found[EMBEDDING].shape[0] if EMBEDDING in found else 0
        expected: dict[str, tuple[int, ...]] = {}
        # Stops at the first tensor that is missing: the metadata may promise any number of layers.
        for name, shape in self._shapes(vocabulary):
            if name not in found:
                raise MalformedPackError(f"tensor {name!r} is missing", subject=self._subject)
            self._check_shape(name, found[name], shape)
            expected[name] = shape
        for name, place in found.items():
            if name == HEAD:
                self._check_shape(name, place, (vocabulary, self.hidden))
            elif name.endswith(".bias"):
                self._check_shape(name, place, expected[f"{name.removesuffix('.bias')}.weight"][:1])
            elif name not in expected:
                raise MalformedPackError(
                    f"tensor {place.tensor.name!r} has no place in a model of this size", subject=self._subject
                )

    def _check_shape(self, name: str, place: Place, shape: tuple[int, ...]) -> None:
        if place.shape != shape:
            raise MalformedPackError(
                f"tensor {place.tensor.name!r}: expected shape {list(shape)} for {name}, found {list(place.shape)}",
                subject=self._subject,
            )

    def _shapes(self, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        assert self.rules is not None
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        gates = self.feed_forward * (2 if "attn_qkv" in self.rules.parts else 1)
        shapes = {
            "attn_norm": (self.hidden,),
            "ffn_norm": (self.hidden,),
            "attn_q": (queries, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_qkv": (queries + 2 * keys, self.hidden),
            "attn_q_norm": (self.head_size,),
            "attn_k_norm": (self.head_size,),
            "attn_output": (self.hidden, queries),
            "ffn_gate": (self.feed_forward, self.hidden),
            "ffn_up": (gates, self.hidden),
            "ffn_down": (self.hidden, self.feed_forward),
            "ffn_gate_inp": (self.experts, self.hidden),
            "ffn_gate_exps": (self.expert_size, self.hidden),
            "ffn_up_exps": (self.expert_size, self.hidden),
            "ffn_down_exps": (self.hidden, self.expert_size),
        }
        yield EMBEDDING, (vocabulary, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for part, name in self.rules.parts.items():
                yield f"{prefix}{name}.weight", shapes[part]
            for part, name in self.rules.experts.items():
                for expert in range(self.experts):
                    yield f"{prefix}{name.format(expert)}.weight", shapes[part]

    def config(self, places: dict[str, Place], dtype: str, read_floats: ReadFloats) -> dict[str, Any]:
        """``config.json`` of a model with this metadata.

        Args:
            places: from :meth:`places`.
            dtype: of the reconstructed weights, as ``config.json`` spells it.
            read_floats: reads a stored float32 tensor by its stored name.

        Raises:
            CodecUnavailableError: no rule for this architecture, or for its rotary positions.
        """
        rules = self.rules
        if rules is None:
            raise CodecUnavailableError(
                f"gguf architecture {self.architecture[:40]!r} is not mapped to a Hugging Face model",
                subject=self._subject,
                hint=f"its tensors can be hashed and compared under llama.cpp's names; mapped: {', '.join(MAPPED)}",
            )
        vocabulary = places[EMBEDDING].shape[0]
        result: dict[str, Any] = {
            "architectures": [rules.model_class],
            "model_type": rules.model_type,
            "attention_dropout": 0.0,
            "dtype": dtype,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward or self.expert_size,
            "max_position_embeddings": self._size("context_length"),
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": self._real("attention.layer_norm_rms_epsilon", None),
            "rope_theta": self._real("rope.freq_base", 10000.0),
            "tie_word_embeddings": HEAD not in places,
            "vocab_size": vocabulary,
        }
        if rules.head_dim:
            result["head_dim"] = self.head_size
        elif self.head_size * self.heads != self.hidden:
            raise CodecUnavailableError(
                f"a head size of {self.head_size} is not mapped for {self.architecture}", subject=self._subject
            )
        if rules.model_type in ("llama", "granite", "qwen3", "qwen3_moe"):
            result["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in places
        if rules.model_type in ("llama", "granite"):
            result["mlp_bias"] = False
        result |= self._expert_config() | self._granite_config() | self._position_config(result, read_floats)
        if (
            isinstance(window := self._metadata.get(f"{self.architecture}.attention.sliding_window"), int)
            and window
        ):
            result["sliding_window"] = window
        if rules.model_type == "phi3":
            result["pad_token_id"] = None  # else the class's own default, which a small vocabulary does not have
        for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
            token = self._metadata.get(f"tokenizer.ggml.{key}_token_id")
            if type(token) is int and 0 <= token < vocabulary:
                result[f"{name}_token_id"] = token
        return dict(sorted(result.items()))

    def _expert_config(self) -> dict[str, Any]:
        if not self.experts:
            return {}
        assert self.rules is not None
        used = self._size("expert_used_count")
        if self.rules.model_type == "mixtral":
            return {"num_local_experts": self.experts, "num_experts_per_tok": used}
        return {
            "num_experts": self.experts,
            "num_experts_per_tok": used,
            "moe_intermediate_size": self.expert_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }

    def _granite_config(self) -> dict[str, Any]:
        if self.architecture != "granite":
            return {}
        keys = {
            "attention_multiplier": "attention.scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "residual_scale",
            "logits_scaling": "logit_scale",
        }
        return {name: self._real(key, 1.0) for name, key in keys.items()}

    def _position_config(self, config: dict[str, Any], read_floats: ReadFloats) -> dict[str, Any]:
        """What the file's tables of rotary frequencies were made from."""
        if not self._position_tensors:
            return {}
        if self._position_tensors == {"rope_freqs.weight"} and self.architecture == "llama":
            factors = read_floats("rope_freqs.weight")
            for setting in _LLAMA3:
                made = _llama3_factors(config["rope_theta"], self.head_size, *setting)
                if len(made) == len(factors) and all(
                    math.isclose(mine, theirs, rel_tol=1e-4) for mine, theirs in zip(made, factors, strict=True)
                ):
                    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
                    return {"rope_scaling": {"rope_type": "llama3", **dict(zip(names, setting, strict=True))}}
        raise CodecUnavailableError(
            f"rotary positions scaled by {', '.join(sorted(self._position_tensors))} are not mapped",
            subject=self._subject,
            hint="the state can be hashed and compared; to measure, use the model's own safetensors checkpoint",
        )

    def text(self, key: str) -> str | None:
        """A text of the metadata, or None."""
        value = self._metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, key: str) -> int:
        value = self._metadata.get(f"{self.architecture}.{key}", 0)
        if type(value) is not int or not 0 <= value < 2**16:
            raise MalformedPackError(
                f"metadata {self.architecture}.{key}: expected a count, found {value!r:.40}", subject=self._subject
            )
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        key = f"{self.architecture}.{key}"
        value = self._metadata.get(key, default)
        if isinstance(value, Array):
            value = _constant(value)
            if value is None:
                raise CodecUnavailableError(f"metadata {key} differs from layer to layer", subject=self._subject)
        if default == 0 and value == 0:
            return 0
        if type(value) is not int or not 1 <= value < 2**31:
            raise MalformedPackError(f"metadata {key}: expected a size, found {value!r:.40}", subject=self._subject)
        return value

    def _real(self, key: str, default: float | None) -> float:
        key = f"{self.architecture}.{key}"
        value = self._metadata.get(key, default)
        if not isinstance(value, float) or not 0.0 < value < float("inf"):
            raise MalformedPackError(
                f"metadata {key}: expected a number, found {value!r:.40}", subject=self._subject
            )
        return shortest_float32(value)


def _llama3_factors(
    theta: float, head_size: int, factor: float, low: float, high: float, original: int
) -> list[float]:
    """The divisors of the rotary frequencies that ``rope_type: llama3`` stands for (llama.cpp's converter)."""
    result = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * theta ** (index / head_size)
        if wavelength < original / high:
            result.append(1.0)
        elif wavelength > original / low:
            result.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            result.append(1 / ((1 - smooth) / factor + smooth))
    return result


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
