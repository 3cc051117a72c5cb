"""One tiny audited model for all command tests: made once, copied where a test damages it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TEXT = Path(__file__).parents[2] / "fixtures" / "text" / "evaluation.txt"


@dataclass
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def ucaudit(*words, cwd=None, **environment) -> Ran:
    """Run the installed command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ucaudit", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "80", **environment},
        check=False,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass
class Desk:
    """A directory with everything an audit needs; a finished bundle in ``bundle``."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name

    @property
    def key(self) -> Path:
        return self.root / "keys" / "signer.pem"

    @property
    def gate(self):
        return (
            "--evidence",
            self.bundle,
            "--policy",
            self.root / "policy.toml",
            "--trust",
            self.root / "trust.toml",
        )


POLICY = """
[measurement]
corpus = "text.txt"
n = 30
seq_len = 48
[claims]
ppl_ratio_max = {ratio}
[gate]
require_plan = true
"""


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Desk:
    root = tmp_path_factory.mktemp("desk")
    make_models(root)
    (root / "text.txt").write_text(TEXT.read_text(encoding="utf-8")[:40_000], encoding="utf-8")
    (root / "policy.toml").write_text(POLICY.format(ratio=1.05), encoding="utf-8")
    desk = Desk(root)

    def run(*words):
        ran = ucaudit(*words, cwd=root)
        assert ran.code == 0, ran.err
        return ran

    run("keygen", "--out", "keys", "--name", "signer", "--no-password")
    run("ledger", "init", "--ledger", "ledger", "--key", desk.key, "--origin", "tests.invalid/log")
    run(
        "trust",
        "add",
        "--file",
        "trust.toml",
        "--key",
        "keys/signer.pub",
        "--principal",
        "tester",
        "--role",
        "developer",
        "--ledger",
        "ledger",
    )
    run("pack", "reference", "--out", "pack", "--calibration", "calibration.txt", "--rank", "2")
    common = ("--reference", "reference", "--policy", "policy.toml", "--ledger", "ledger", "--key", desk.key)
    run("plan", "pack", *common, "--out", "plan.dsse.json")
    run("attest", "pack", *common, "--plan", "plan.dsse.json", "--out", "bundle")
    return desk


def make_models(root: Path) -> None:
    """A random Llama of two layers with a small BPE tokenizer, as a bf16 checkpoint."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = TEXT.read_text(encoding="utf-8")
    (root / "calibration.txt").write_text(text[100_000:130_000], encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text[:60_000]], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(root / "reference")
    fast.save_pretrained(root / "reference")
    (root / "reference" / "LICENSE").write_text("made up for a test\n", encoding="utf-8")


@pytest.fixture
def bundle_copy(desk, tmp_path):
    import shutil

    return shutil.copytree(desk.bundle, tmp_path / "bundle")


@pytest.fixture
def pack_copy(desk, tmp_path):
    import shutil

    return shutil.copytree(desk.pack, tmp_path / "pack")
