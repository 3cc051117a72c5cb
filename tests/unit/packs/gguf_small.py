"""A small llama GGUF file with a byte-level tokenizer, written by llama.cpp's own package."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize

LAYERS, HIDDEN, HEADS, KV_HEADS, FEED_FORWARD = 2, 64, 4, 2, 96
HEAD = HIDDEN // HEADS
Q4_1, Q8_0, F32, F16 = (getattr(GGMLQuantizationType, name) for name in ("Q4_1", "Q8_0", "F32", "F16"))
TOKENS = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "he", "ll", "hell", "<|end|>"]
VOCABULARY = len(TOKENS)

PARTS = {
    "self_attn.q_proj": ("attn_q", (HIDDEN, HIDDEN), Q4_1),
    "self_attn.k_proj": ("attn_k", (KV_HEADS * HEAD, HIDDEN), Q4_1),
    "self_attn.v_proj": ("attn_v", (KV_HEADS * HEAD, HIDDEN), Q8_0),
    "self_attn.o_proj": ("attn_output", (HIDDEN, HIDDEN), Q4_1),
    "mlp.gate_proj": ("ffn_gate", (FEED_FORWARD, HIDDEN), Q4_1),
    "mlp.up_proj": ("ffn_up", (FEED_FORWARD, HIDDEN), F16),
    "mlp.down_proj": ("ffn_down", (HIDDEN, FEED_FORWARD), Q8_0),
    "input_layernorm": ("attn_norm", (HIDDEN,), F32),
    "post_attention_layernorm": ("ffn_norm", (HIDDEN,), F32),
}


def interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows: halves of a head become neighbours."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(
    path: Path, *, architecture: str = "llama", tied: bool = True, tensors: dict | None = None, **metadata
) -> dict[str, np.ndarray]:
    """Write the file. Returns Hugging Face name → float32 values that a decoder must find, before bf16."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture)
    settings = {
        "block_count": LAYERS, "context_length": 128, "embedding_length": HIDDEN,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.dimension_count": HEAD,
        "vocab_size": VOCABULARY,
    } | {key: value for key, value in metadata.items() if isinstance(value, int)}  # fmt: skip
    for key, value in settings.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.rope.freq_base", 50000.0)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key if key.startswith("general") else f"{architecture}.{key}", value)
    writer.add_license("mit")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (VOCABULARY - 1) + [3])
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_bos_token_id(VOCABULARY - 1)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    expected: dict[str, np.ndarray] = {}

    def add(
        name: str, stored_name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, heads: int = 0
    ) -> None:
        values = rng.normal(size=shape).astype(np.float32)
        expected[name] = dequantize(quantize(values, kind), kind).reshape(shape)
        stored = interleave(values, heads) if heads else values
        writer.add_tensor(stored_name, quantize(stored, kind), raw_dtype=kind)

    add("model.embed_tokens.weight", "token_embd.weight", (VOCABULARY, HIDDEN), Q8_0)
    for layer in range(LAYERS):
        for part, (stored, shape, kind) in PARTS.items():
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(part, 0)
            add(f"model.layers.{layer}.{part}.weight", f"blk.{layer}.{stored}.weight", shape, kind, heads)
    add("model.norm.weight", "output_norm.weight", (HIDDEN,), F32)
    if not tied:
        add("lm_head.weight", "output.weight", (VOCABULARY, HIDDEN), Q4_1)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected
