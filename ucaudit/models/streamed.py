"""A transformers model that is never whole in memory: built without weights, loaded a part at a time.

Parts are the decoder layers, what lies in front of them (embeddings) and what lies behind (norm and head). The
code that runs is the library's own, and so are the conversions from a checkpoint's names to its modules: experts
that the files hold one by one and the module as one tensor, renamed projections, ties. After every load, each
parameter of the part must be there, and every tensor of the files must have been used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core.errors import ModelError, missing_extra
from ucaudit.models.freed import return_freed_memory
from ucaudit.models.layers import Call, Entered, call_layer, find_layers, layers_give, record_calls
from ucaudit.models.runtime import (
    LIBRARY_ERRORS,
    implementations,
    model_config,
    one_line,
    quiet_library,
    unloadable,
)
from ucaudit.packs.state import load_tensors

try:
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        convert_and_load_state_dict_in_model,
        rename_source_key,
    )
    from transformers.modeling_utils import LoadStateDictConfig
except ImportError as error:
    raise missing_extra("measure", error.name or "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ucaudit.packs.codecs.base import TensorSource

_SYNCHRONOUS: Final = "HF_DEACTIVATE_ASYNC_LOAD"
_IGNORED: Final = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Names of old checkpoints that transformers leaves out as well: buffers that it computes itself."""


class StreamedModel:
    """One model, loaded a part at a time.

    Args:
        source: every tensor of the checkpoint, under the names of its files.
        dtype: what parameters are converted to, each value rounded once.
        device: ``cpu`` or ``cuda``.
        threads: tensors decoded at a time; None leaves it to torch's setting.

    Attributes:
        model: the library's object; parameters that are not loaded lie on the meta device.
        count: the number of layers.
        prefix: of their names, up to the index (``model.layers.``).

    Raises:
        ModelError: a configuration that transformers cannot build, tensors that belong to no module, a tensor
            outside the layers that the checkpoint does not have, or a family whose layers are not a plain list.
    """

    def __init__(
        self, source: TensorSource, *, dtype: torch.dtype, device: str, threads: int | None = None
    ) -> None:
        self._source = source
        self._dtype = dtype
        self._device = device
        self._threads = threads
        self._packed = False
        self.model = _skeleton(source, dtype)
        path, layers = find_layers(self.model)
        self._layers = layers
        self.prefix = f"{path}."
        self.count = len(layers)
        self._parts = self._assign()
        self._require_outer()

    def names(self, layer: int | None) -> Sequence[str]:
        """The checkpoint's tensors of one layer; with None, those of no layer."""
        return self._parts[layer]

    def target(self, name: str) -> str:
        """Where a tensor of the files goes: the name of a parameter, or of one that it becomes part of."""
        mapping = self._mapping()
        target, _ = rename_source_key(
            name,
            [rule for rule in mapping if isinstance(rule, WeightRenaming)],
            [rule for rule in mapping if isinstance(rule, WeightConverter)],
            self.model.base_model_prefix,
            self._known(),
        )
        return str(target)

    def targets(self, layer: int) -> dict[str, str]:
        """Name in the checkpoint → name in the layer, for each of the layer's tensors."""
        return {name: self.target(name).removeprefix(f"{self.prefix}{layer}.") for name in self.names(layer)}

    def enter(self, ids: torch.Tensor) -> Entered:
        """What enters the first layer, and every layer's call; see :func:`record_calls`.

        Args:
            ids: int64 [sequences, length].
        """
        with torch.no_grad():  # not inference mode: the encoder trains with these arguments
            entered = record_calls(self.model, ids.to(self._device))
        self._packed = entered.packed
        return entered

    def run(self, layer: int, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        """One layer's output for one window's hidden states [1, length, hidden]; the layer must be loaded."""
        with torch.inference_mode():
            return call_layer(self._layers[layer], hidden, call)

    def layer(self, index: int) -> nn.Module:
        """The library's module of one layer."""
        return self._layers[index]

    def logits(self, hidden: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Norm, head and whatever the family does after it, for the rows ``begin`` … ``end`` − 1 of one window.

        Args:
            hidden: what the last layer returned, [1, length, hidden].

        Returns:
            [end − begin, vocabulary] in the compute dtype.
        """
        rows = torch.arange(begin, end, device=hidden.device)
        with torch.inference_mode(), layers_give(self.model, hidden, packed=self._packed):
            output = self.model(inputs_embeds=torch.zeros_like(hidden), use_cache=False, logits_to_keep=rows)
        logits: torch.Tensor = output.logits[0]
        if len(logits) != end - begin:
            raise ModelError(
                "its head cannot be run on a part of the tokens", subject=str(self.model.config.model_type)
            )
        return logits

    @contextmanager
    def front(self) -> Iterator[None]:
        """Hold what :meth:`enter` needs: all but the layers and a head of its own."""
        with self._held([name for name in self._parts[None] if name not in self._head_only()]):
            yield

    @contextmanager
    def back(self) -> Iterator[None]:
        """Hold what :meth:`logits` needs: all but the layers and an input embedding that is not the head."""
        with self._held([name for name in self._parts[None] if name not in self._embedding_only()]):
            yield

    @contextmanager
    def loaded(self, layer: int) -> Iterator[nn.Module]:
        """Hold one layer.

        Raises:
            ModelError: a parameter of the layer that the checkpoint does not have, or a tensor of the checkpoint
                that does not fit.
        """
        prefix = f"{self.prefix}{layer}."
        missing = self._load(self._parts[layer])
        absent = sorted(name for name in missing if name.startswith(prefix))
        if absent:
            raise ModelError(f"{len(absent)} tensors missing: {', '.join(absent[:5])}", subject=self.family)
        module = self._layers[layer]
        _require_real(module, prefix)
        try:
            yield module
        finally:
            _to_meta(module)
            return_freed_memory()

    def prefetch(self, layer: int) -> None:
        """Ask the system to read a layer's bytes ahead, into its own cache; costs this process no memory."""
        if layer < self.count:
            self._source.prefetch(self._parts[layer])

    @property
    def family(self) -> str:
        """transformers' name of the architecture."""
        return str(self.model.config.model_type)

    @contextmanager
    def _held(self, names: Sequence[str]) -> Iterator[None]:
        missing = self._load(names)
        # As when the whole model is loaded: also where the files hold the head and not the embedding.
        with quiet_library():
            self.model.tie_weights(missing_keys=missing, recompute_mapping=False)
        try:
            yield
        finally:
            for module in self.model.modules():
                if not any(module is layer for layer in self._layers):
                    _to_meta(module, recurse=False)
            return_freed_memory()

    def _head_only(self) -> set[str]:
        return self._outer_only(self.model.get_output_embeddings(), self.model.get_input_embeddings())

    def _embedding_only(self) -> set[str]:
        return self._outer_only(self.model.get_input_embeddings(), self.model.get_output_embeddings())

    def _outer_only(self, module: nn.Module | None, other: nn.Module | None) -> set[str]:
        """The checkpoint's names of a module's tensors, unless the other module has the same tensors."""
        if module is None or other is None or getattr(module, "weight", None) is getattr(other, "weight", None):
            return set()
        if self._tied:
            return set()
        mine = {f"{name}.weight" for name, found in self.model.named_modules() if found is module}
        return {name for name in self._parts[None] if self.target(name) in mine}

    @property
    def _tied(self) -> bool:
        return bool(self._source.ties) or bool(
            getattr(self.model.config.get_text_config(), "tie_word_embeddings", False)
        )

    def _assign(self) -> dict[int | None, list[str]]:
        """Which tensors of the files belong to which layer; those of no layer under None."""
        known = self.model.state_dict()
        parts: dict[int | None, list[str]] = {index: [] for index in range(self.count)}
        parts[None] = []
        unknown = []
        ignored = [*_IGNORED, *(self.model._keys_to_ignore_on_load_unexpected or ())]
        for spec in self._source.specs:
            target = self.target(spec.name)
            if target not in known:
                if not any(re.search(pattern, spec.name) for pattern in ignored):
                    unknown.append(spec.name)
                continue
            inside = target.startswith(self.prefix)
            index = int(target[len(self.prefix) :].partition(".")[0]) if inside else None
            parts[index].append(spec.name)
        if unknown:
            raise unloadable("unexpected", unknown, self.family)
        return parts

    def _require_outer(self) -> None:
        """Refuse a checkpoint without its embedding, final norm or head; a layer is looked at when it is loaded.

        What may be missing is the library's rule, as when it loads the whole model: tied names of which one is
        there, names that the family leaves out, and names that a rule makes of a tensor with another name.
        """
        ties = self.model.all_tied_weights_keys
        there = {self.target(name) for name in self._parts[None]}
        there |= {stored for tied, stored in ties.items() if tied in there}
        there |= {tied for tied, stored in ties.items() if stored in there}
        rules = [rule for rule in self._mapping() if isinstance(rule, WeightConverter)]
        made = [re.escape(name) for rule in rules for name in rule.target_patterns[1:]]
        left_out = [*(self.model._keys_to_ignore_on_load_missing or ()), *made]
        missing = [
            name
            for name in self._known()
            if name not in there
            and not name.startswith(self.prefix)
            and not any(re.search(pattern, name) for pattern in left_out)
        ]
        if missing:
            raise unloadable("missing", missing, self.family)

    def _mapping(self) -> list[Any]:
        if "_rules" not in self.__dict__:
            self._rules = list(get_model_conversion_mapping(self.model))
        return self._rules

    def _known(self) -> dict[str, Any]:
        if "_names" not in self.__dict__:
            self._names = dict(self.model.state_dict())
        return self._names

    def _load(self, names: Sequence[str]) -> set[str]:
        """Load tensors into their modules; returns the names of the model's parameters that are not among them."""
        waiting = _Waiting(load_tensors(self._source, names, threads=self._threads))
        config = LoadStateDictConfig(
            dtype=self._dtype,
            dtype_plan=self.model._get_dtype_plan(self._dtype),
            device_map={"": self._device},
            weight_mapping=get_model_conversion_mapping(self.model),
            ignore_mismatched_sizes=True,
        )
        with quiet_library(), _synchronous():
            try:
                info, _ = convert_and_load_state_dict_in_model(
                    self.model, {name: waiting.tensor(name) for name in names}, config
                )
            except LIBRARY_ERRORS as error:
                raise ModelError(
                    f"transformers cannot load these tensors: {one_line(error)}", subject=self.family
                ) from error
        for title, found in (
            ("unexpected", info.unexpected_keys),
            ("of another shape", [entry[0] for entry in info.mismatched_keys]),
            ("not convertible", info.conversion_errors),
            ("not loadable", info.error_msgs),
        ):
            if found:
                raise unloadable(title, found, self.family)
        self.model.requires_grad_(False)
        return_freed_memory()  # the stored values
        return set(info.missing_keys)


class _Waiting:
    """Decoded tensors that are let go as soon as the library has taken them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def tensor(self, name: str) -> _Slice:
        """Looks to the library like a lazily read tensor of a file."""
        return _Slice(self._tensors, name)


class _Slice:
    def __init__(self, tensors: dict[str, torch.Tensor], name: str) -> None:
        self._tensors = tensors
        self._name = name

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._tensors.pop(self._name)


def _skeleton(source: TensorSource, dtype: torch.dtype) -> PreTrainedModel:
    config = model_config(source)
    _, attention = implementations(config)
    with quiet_library(), _parameters_on_meta():
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention
            )
        except (
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            IndexError,
            ArithmeticError,
        ) as error:
            raise ModelError(
                f"transformers cannot build this model: {one_line(error)}", subject=config.model_type
            ) from error
    model.requires_grad_(False)
    return model.eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made inside have parameters without memory; buffers, which hold computed tables, are real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None:
            self._parameters[name] = nn.Parameter(param.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def _synchronous() -> Iterator[None]:
    """Tensors are converted one by one, so that only one exists twice."""
    before = os.environ.get(_SYNCHRONOUS)
    os.environ[_SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SYNCHRONOUS]
        else:
            os.environ[_SYNCHRONOUS] = before


def _to_meta(module: nn.Module, *, recurse: bool = True) -> None:
    for part in module.modules() if recurse else (module,):
        for name, parameter in part._parameters.items():
            if parameter is not None and not parameter.is_meta:
                part._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def _require_real(module: nn.Module, prefix: str) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ModelError("the tensor was never loaded", subject=prefix + name)
