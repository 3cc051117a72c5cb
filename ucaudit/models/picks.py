"""Gradients through code that takes a tensor apart one element at a time, as a recurrence over positions does.

The gradient of ``x[:, i]`` is a tensor as large as ``x``, zero everywhere but at ``i``; a loop over all ``i`` fills
as many, and takes time that grows with the square of the length. The gradient of ``unbind`` is one ``stack``. So
here the first such pick takes the whole tensor apart, and the others of that tensor find their element ready.
Values are the same; gradients too, up to the order in which the parts of one element's are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

_WHOLE: Final = slice(None)


@contextmanager
def picks_apart() -> Iterator[None]:
    """Inside, and in this thread, ``x[:, :, i]`` has a gradient of the element's size: an int behind whole slices.

    Tensors that are picked from are kept until the end. Neither they nor their elements may be changed in place
    while a pick from before is still used: torch raises RuntimeError. A tensor that no gradient reaches is left
    alone, and so is every other way to pick.
    """
    with _Picks():
        yield


class _Picks(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._apart: dict[tuple[int, int, int], tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch returns
        if func is torch.Tensor.__getitem__ and args[0].requires_grad and torch.is_grad_enabled():
            tensor, index = args
            dim = _picked_dimension(index)
            if dim is not None and len(index) <= tensor.ndim and tensor.shape[dim] > 1:
                return self._parts(tensor, dim)[index[dim]]
        return func(*args, **(kwargs or {}))

    def _parts(self, tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        key = id(tensor), dim, tensor._version  # which grows with every change in place
        if key not in self._apart:
            self._apart[key] = (tensor, tensor.unbind(dim))  # while the tensor is kept, its id is nobody else's
        return self._apart[key][1]


def _picked_dimension(index: object) -> int | None:
    """Which dimension an index picks one element of, if it takes all others in front of it whole."""
    if not isinstance(index, tuple):
        return None
    for dim, part in enumerate(index):
        if type(part) is int:
            return dim if all(isinstance(rest, slice) and rest == _WHOLE for rest in index[dim + 1 :]) else None
        if not (isinstance(part, slice) and part == _WHOLE):
            return None
    return None
