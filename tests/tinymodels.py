"""Tiny random models with a real tokenizer, saved as Hugging Face checkpoints."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 320
PROSE = "the cat sat on a mat and looked at every bird that came to drink from an old stone bowl"
WORDS = PROSE.split()


def make_text(words: int = 4000, seed: int = 1) -> str:
    """Random prose of a few words."""
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(words)) + ".\n"


def make_tokenizer(directory: Path, *, bos: bool = False) -> None:
    """A byte-level BPE of at most VOCAB tokens; with ``bos`` it puts ``<s>`` in front of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([make_text(200, seed=2)], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_model(directory: Path, *, seed: int = 0, noise: float = 0.0, bos: bool = False, **changes: int) -> Path:
    """A Llama of two layers in bf16; ``noise`` disturbs its matrices, as a compression would."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        **changes,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        **settings, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, initializer_range=0.3
    )
    model = LlamaForCausalLM(config)
    if noise:
        generator = torch.Generator().manual_seed(99)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.add_(noise * parameter.std() * torch.randn(parameter.shape, generator=generator))
    model.to(torch.bfloat16).save_pretrained(directory)
    make_tokenizer(directory, bos=bos)
    return directory
