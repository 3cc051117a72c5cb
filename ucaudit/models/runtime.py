"""Build a transformers model and tokenizer from a tensor source, and refuse anything that did not load whole.

The masks, rotary embeddings, attention and checkpoint conversions are transformers' own. What is ours is the
refusal: a parameter that stayed on the meta device, was initialised at random, or a tensor that nothing used,
would make every later figure meaningless.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core import strictjson
from ucaudit.core.errors import ModelError, OutputError, missing_extra
from ucaudit.core.files import output_error

try:
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
except ImportError as error:
    raise missing_extra("measure", error.name or "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ucaudit.packs.codecs.base import TensorSource

ATTENTION: Final = "sdpa"
"""The attention implementation that is asked for; families without it run with ``eager`` (see the record)."""

EXPERTS: Final = "eager"
"""The implementation of mixture-of-experts layers, where the family has any."""

TOKENIZER_FILES: Final = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
    }
)
"""The carried files a tokenizer is read from; nothing else of a pack reaches the tokenizer loader."""

LIBRARY_ERRORS: Final = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
)
"""What transformers raises when a configuration or its tensors make no sense."""

# The state is already decoded, so a quantisation section would be applied twice; the others name code or files.
_CONFIG_KEYS_DROPPED: Final = frozenset(
    {"quantization_config", "auto_map", "transformers_weights", "fusion_config", "torch_dtype", "dtype"}
)
_FLOATS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_MAX_CARRIED_BYTES: Final = 256 << 20
_MAX_NAMED: Final = 5


def model_config(source: TensorSource) -> PreTrainedConfig:
    """The transformers configuration of a source, without the keys that name code, files or a quantiser.

    Raises:
        ModelError: no ``model_type``, or one that transformers does not know as a causal language model.
    """
    raw = dict(source.config())
    model_type = raw.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model type {model_type!r}",
            subject="config.json",
        )
    kept = {
        key: _special_floats(value)
        for key, value in raw.items()
        if key not in _CONFIG_KEYS_DROPPED and key[:1] != "_"
    }
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(kept)
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"not a usable configuration: {one_line(error)}", subject="config.json") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{model_type} is not a causal language model", subject="config.json")
    return config


def load_model(source: TensorSource, *, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The whole model in memory, in eval mode, without gradients.

    Args:
        source: every tensor of the checkpoint, under the names of its files.
        dtype: what the parameters are converted to (each value rounded once).
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        ModelError: a parameter is missing, unexpected, of another shape, still on the meta device, or the
            configuration does not fit.
    """
    state = {spec.name: source.load(spec.name) for spec in source.specs}
    return build_model(model_config(source), state, dtype=dtype, device=device)


def build_model(
    config: PreTrainedConfig, state: Mapping[str, torch.Tensor], *, dtype: torch.dtype, device: str
) -> PreTrainedModel:
    """As :func:`load_model`, from a configuration and the tensors by name."""
    model_class, attention = implementations(config)
    try:
        with quiet_library():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report names them; they are refused below
            )
    except LIBRARY_ERRORS as error:
        raise ModelError(
            f"transformers cannot build this model: {one_line(error)}", subject=config.model_type
        ) from error
    _require_whole(model, report)
    model.requires_grad_(False)
    model.eval()
    moved: PreTrainedModel = model.to(device)
    return moved


def implementations(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], str]:
    """The transformers class of a configuration and the attention it runs with; pins the experts' code in it."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    config._experts_implementation = EXPERTS
    return model_class, ATTENTION if getattr(model_class, "_supports_sdpa", False) else "eager"


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep transformers' warnings and progress bars off the terminal: what matters in them is an error here."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.enable_progress_bar()
        transformers.logging.set_verbosity(verbosity)


def load_tokenizer(source: TensorSource) -> PreTrainedTokenizerBase:
    """The tokenizer from the source's carried files, and from nothing else.

    Raises:
        ModelError: no tokenizer files, or transformers cannot read them without running code from them.
        OutputError: they do not fit the directory of temporary files, where transformers reads them.
    """
    wanted = sorted(name for name in source.carried_files() if name in TOKENIZER_FILES)
    if not {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"} & set(wanted):
        raise ModelError("no tokenizer files", subject="tokenizer.json")
    files = {name: _carried(source, name) for name in wanted}
    config = {key: value for key, value in source.config().items() if key not in _CONFIG_KEYS_DROPPED}
    files["config.json"] = strictjson.dumps(config)
    with _temporary(files) as folder:
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # tokenizers raises plain Exception for a bad merge or pattern
            if b'"auto_map"' in files.get("tokenizer_config.json", b""):
                raise ModelError(
                    "the tokenizer needs code of its own (auto_map), and nothing from a pack is ever run",
                    subject="tokenizer_config.json",
                    hint="a tokenizer.json that transformers reads by itself is needed, in pack and reference",
                ) from error
            raise ModelError(f"not a usable tokenizer: {one_line(error)}", subject="tokenizer.json") from error
    return tokenizer


def _carried(source: TensorSource, name: str) -> bytes:
    with source.open_carried(name) as handle:
        data = handle.read(_MAX_CARRIED_BYTES + 1)
    if len(data) > _MAX_CARRIED_BYTES:
        raise ModelError(f"larger than {_MAX_CARRIED_BYTES} bytes", subject=name)
    return data


@contextmanager
def _temporary(files: Mapping[str, bytes]) -> Iterator[str]:
    """A directory that holds these files and is gone afterwards."""
    with ExitStack() as held:
        folder = os.environ.get("TMPDIR", "")
        try:
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="ucaudit-tokenizer-"))
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
        except OSError as error:
            message = output_error(Path(folder), error).message
            hint = "make room there, or set TMPDIR to another directory"
            raise OutputError(message, subject=folder or "TMPDIR", hint=hint) from error
        yield folder


def runtime_record(model: PreTrainedModel) -> dict[str, str]:
    """What a measurement must record about the model's own code: versions, dtype, attention, experts, device."""
    parameter = next(model.parameters())
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "modelClass": type(model).__name__,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "attention": str(model.config._attn_implementation),
        "experts": str(getattr(model.config, "_experts_implementation", None) or EXPERTS),
    }


def _require_whole(model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    for title, found in (
        ("missing", report["missing_keys"]),
        ("unexpected", report["unexpected_keys"]),
        ("of another shape", [entry[0] for entry in report["mismatched_keys"]]),
        ("not loadable", report["error_msgs"]),
    ):
        if found:
            raise unloadable(title, found, model.config.model_type)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError("the tensor was never loaded", subject=name)


def _special_floats(value: Any) -> Any:  # noqa: ANN401 - a JSON value is any of six types
    """transformers' spelling of infinities in JSON, ``{"__float__": "Infinity"}``, as the number it stands for."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in _FLOATS:
            return _FLOATS[value["__float__"]]
        return {key: _special_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_special_floats(item) for item in value]
    return value


def unloadable(title: str, found: Iterable[object], family: str) -> ModelError:
    """The error for tensors that do not fit a model: how many, and the first names."""
    names = sorted(str(name) for name in found)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ModelError(
        f"{len(names)} tensors {title}: {', '.join(names[:_MAX_NAMED])}{more}",
        subject=family,
        hint="the tensors do not belong to this config.json",
    )


def one_line(error: BaseException) -> str:
    """An exception of the library as one line of an error message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
