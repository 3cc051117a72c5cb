"""NaN and infinity, refused by the checkpoint's own name for the tensor before anything is run with it.

One such value spreads: through a norm or an embedding it reaches every weight behind it, and each of them would be
blamed for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ucaudit.core.errors import ModelError
from ucaudit.packs.codecs.base import TensorSource
from ucaudit.packs.state import blocks


def require_finite(tensor: torch.Tensor, name: str) -> None:
    """Raises ModelError if a tensor holds NaN or infinity."""
    if not bool(tensor.isfinite().all()):
        hint = "the checkpoint is damaged: get it again, or repair it"
        raise ModelError("NaN or infinity in a weight", subject=name, hint=hint)


def require_finite_tensors(source: TensorSource, names: Iterable[str]) -> None:
    """Raises ModelError if a tensor of the files holds NaN or infinity, or what is infinite in float32."""
    for name in names:
        for block in blocks(source, source.spec(name), "cpu"):
            if block.is_floating_point():
                require_finite(block.float(), name)


def require_finite_layer(layer: nn.Module, source: TensorSource, names: Iterable[str]) -> None:
    """The same for a layer that is loaded: the files are read again only to find the name."""
    if not all(bool(tensor.isfinite().all()) for tensor in layer.parameters() if tensor.is_floating_point()):
        require_finite_tensors(source, names)
