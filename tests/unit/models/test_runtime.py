import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels import VOCAB, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig, Qwen3Config

from ucaudit.core.errors import ModelError
from ucaudit.models.runtime import load_model, load_tokenizer, runtime_record
from ucaudit.packs.codecs import open_source

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
FAMILIES = {
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=False),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "mamba": MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0),
}


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model")


def loaded(path, dtype=torch.float32):
    with open_source(path) as source:
        return load_model(source, dtype=dtype, device="cpu")


def edit(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    config.update(changes)
    (path / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )


IDS = torch.arange(40).unsqueeze(0) % VOCAB


@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_bits_are_those_of_from_pretrained(tmp_path, family):
    path = tmp_path / "m"
    if family == "llama":
        make_model(path)
    else:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(FAMILIES[family]).to(torch.bfloat16).save_pretrained(path)
    found = loaded(path)
    attention = "eager" if family == "mamba" else "sdpa"
    expected = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=attention).eval()
    state = expected.state_dict()
    assert state.keys() == found.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    with torch.no_grad():
        assert torch.equal(found(input_ids=IDS).logits, expected(input_ids=IDS).logits)
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())


def test_tied_weights_are_one_tensor(model):
    found = loaded(model)
    assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr()


def test_the_record_says_what_was_run(model):
    record = runtime_record(loaded(model, torch.bfloat16))
    assert {"dtype": "bfloat16", "attention": "sdpa", "device": "cpu"}.items() <= record.items()
    assert record["modelClass"] == "LlamaForCausalLM" and record["torch"] == torch.__version__


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop(NAME), ("missing", NAME)),
        (lambda tensors: tensors.update({"odd.weight": torch.ones(2)}), ("unexpected", "odd.weight")),
        (lambda tensors: tensors.update({NAME: torch.ones(2, 2)}), ("of another shape", NAME)),
        (
            lambda tensors: tensors.update({NAME.replace("layers.1", "layers.2"): torch.ones(64, 32)}),
            ("unexpected", "layers.2"),
        ),
    ],
)
def test_what_does_not_fit_is_named(model, change, words):
    edit(model, change)
    with pytest.raises(ModelError) as caught:
        loaded(model)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "no-such-family"}, "no-such-family"),
        ({"model_type": None}, "None"),
        ({"model_type": "vit"}, "not a causal language model"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "config|build"),
    ],
)
def test_a_configuration_that_does_not_serve(model, changes, word):
    edit_config(model, **changes)
    with pytest.raises(ModelError, match=word):
        loaded(model)


def test_a_configuration_cannot_name_code_files_or_a_quantiser(model):
    before = loaded(model).state_dict()
    edit_config(
        model,
        auto_map={"AutoModelForCausalLM": "evil--evil.Model", "AutoConfig": "evil.Config"},
        transformers_weights="../../evil.safetensors",
        _attn_implementation="evil/kernel",
        attn_implementation=None,
        dtype="float16",
    )
    after = loaded(model)
    assert runtime_record(after)["attention"] == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items())


def test_the_tokenizer_comes_from_the_carried_files(model):
    with open_source(model) as source:
        tokenizer = load_tokenizer(source)
    assert tokenizer.decode(tokenizer("the cat")["input_ids"]) == "the cat" and tokenizer.bos_token_id == 0


def test_a_tokenizer_that_is_missing_or_broken(model):
    (model / "tokenizer.json").unlink()
    with open_source(model) as source, pytest.raises(ModelError, match="no tokenizer files"):
        load_tokenizer(source)
    (model / "tokenizer.json").write_text('{"version": "1.0"}')
    with open_source(model) as source, pytest.raises(ModelError, match="not a usable tokenizer"):
        load_tokenizer(source)


@pytest.mark.parametrize("part", ["merge", "pattern"])
def test_a_tokenizer_that_the_library_chokes_on(model, part):
    """The library raises bare Exception here."""
    document = json.loads((model / "tokenizer.json").read_text())
    if part == "merge":
        document["model"]["merges"].append(["no such token", "q"])
    else:
        document["pre_tokenizer"] = {
            "type": "Split",
            "pattern": {"Regex": "(a"},
            "behavior": "Isolated",
            "invert": False,
        }
    (model / "tokenizer.json").write_text(json.dumps(document))
    with open_source(model) as source, pytest.raises(ModelError, match="not a usable tokenizer: "):
        load_tokenizer(source)


def test_a_tokenizer_that_is_nothing_but_code(model):
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "EvilTokenizer"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").rename(model / "vocab.json")
    with open_source(model) as source, pytest.raises(ModelError, match="code of its own") as caught:
        load_tokenizer(source)
    assert caught.value.hint and "trust_remote_code" not in str(caught.value)


def test_a_tokenizer_cannot_bring_code(model):
    make_tokenizer(model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "EvilTokenizer"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text("raise SystemExit('code of the model was run')")
    with open_source(model) as source:
        try:
            tokenizer = load_tokenizer(source)
        except ModelError as error:
            assert "EvilTokenizer" in str(error) or "tokenizer" in str(error)
        else:
            assert type(tokenizer).__module__.startswith("transformers.")
