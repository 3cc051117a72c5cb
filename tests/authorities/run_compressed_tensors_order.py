"""compressed-tensors 0.12, which still stored the groups of the columns (``weight_g_idx``, actorder)."""

from functools import partial
from importlib.metadata import version

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from packs import LARGE, SPEED, TENSORS, add, finish, timed, weights


def decode(compressor: BaseCompressor, given: dict, args: QuantizationArgs) -> torch.Tensor:
    return compressor.decompress_weight(dict(given), quantization_args=args)


def main() -> None:
    """Write every case."""
    for index in range(1 if SPEED else TENSORS):
        rows, columns, group = 3 + 2 * index, 64 + 32 * (index % 4), 32
        if SPEED:
            (rows, columns), group = LARGE, 128
        dtype = [torch.bfloat16, torch.float16, torch.float32][index % 3]
        for bits, symmetric in ((4, True), (8, True)):  # it could not take packed zero points back
            fields = {
                "num_bits": bits,
                "type": "int",
                "symmetric": symmetric,
                "strategy": "group",
                "group_size": group,
                "actorder": "group",
            }
            args = QuantizationArgs(**fields)
            weight = weights(rows, columns, index).to(dtype)
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(index))
            g_idx = torch.empty(columns, dtype=torch.int32)
            g_idx[order] = (torch.arange(columns) // group).to(torch.int32)
            sorted_weight = weight[:, order].view(rows, -1, group)
            scale, zero = calculate_qparams(sorted_weight.amin(2), sorted_weight.amax(2), args)
            scale = scale.to(dtype)
            config = QuantizationConfig(
                config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=args)},
                format="pack-quantized",
            )
            compressor = BaseCompressor.load_from_registry("pack-quantized", config=config)
            stored = compressor.compress_weight(
                weight=weight, scale=scale, zero_point=zero, g_idx=g_idx, quantization_args=args
            )
            stored = {**stored, "weight_scale": scale, "weight_g_idx": g_idx}
            given = dict(stored)
            expected = decode(compressor, given, args)
            timed(f"order{bits}-sym-{index}", partial(decode, compressor, given, args))
            module = "model.layers.0.mlp.up_proj"
            section = {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": fields}},
            }
            add(
                f"order{bits}-{'sym' if symmetric else 'asym'}-{index}",
                section,
                {f"{module}.{key}": value for key, value in stored.items()},
                {f"{module}.weight": expected},
                "ct-scale/1",
            )
    finish(f"compressed-tensors {version('compressed-tensors')}")


main()
