"""compressed-tensors' own compressors and decompressors (0.20): every format, strategy and width."""

from importlib.metadata import version

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils.helpers import calculate_qparams
from packs import LARGE, SPEED, TENSORS, add, finish, timed, weights

PROFILE = "ct-scale/1"
SHAPES = [(3, 32), (8, 64), (5, 96), (33, 160), (64, 224), (16, 32), (7, 480), (40, 64), (12, 320), (9, 128)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def parameters(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points of the smallest and largest value, as an observer would give them."""
    rows, columns = weight.shape
    strategy = str(getattr(args.strategy, "value", args.strategy))
    if strategy == "tensor":
        low, high = weight.amin().reshape(1), weight.amax().reshape(1)
    elif strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    elif strategy == "block":
        height, width = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height))
        blocks = padded.view(padded.shape[0] // height, height, -1, width)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    else:
        groups = weight.view(rows, -1, args.group_size)
        low, high = groups.amin(2), groups.amax(2)
    return calculate_qparams(low, high, args)


def compress(name: str, form: str, args: dict, shape: tuple[int, int], seed: int, dtype: torch.dtype) -> None:
    weight_args = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=weight_args)
    weight = weights(*shape, seed).to(dtype)
    scale, zero = parameters(weight, weight_args)
    state = {"weight": weight, "weight_scale": scale.to(dtype), "weight_zero_point": zero}
    if form == "nvfp4-pack-quantized":
        state["weight_global_scale"] = torch.tensor([448.0 * 6.0]) / weight.float().abs().max()
        groups = weight.float().view(shape[0], -1, 16).abs().amax(2)
        state["weight_scale"] = (groups / 6.0 * state["weight_global_scale"]).clamp(2**-9, 448.0)
        state.pop("weight_zero_point")
    if form == "mxfp4-pack-quantized":
        exponent = torch.floor(torch.log2(weight.float().view(shape[0], -1, 32).abs().amax(2).clamp(min=1e-30))) - 2
        state["weight_scale"] = torch.exp2(exponent)
        state.pop("weight_zero_point")
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(dict(state), scheme)
    # As they come back from a file: with the strides of their shape.
    stored = {key: value.reshape(-1).clone().view(value.shape) for key, value in stored.items()}
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    timed(name, lambda: compressor.decompress(dict(stored), scheme))
    section = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
    }
    module = "model.layers.0.mlp.up_proj"
    add(
        name,
        section,
        {f"{module}.{key}": value for key, value in stored.items()},
        {f"{module}.weight": expected},
        PROFILE,
    )


def main() -> None:
    """Write every case."""
    if SPEED:
        speed()
    for index in range(TENSORS):
        shape, dtype = SHAPES[index % len(SHAPES)], DTYPES[index % 3]
        for bits in range(1, 9):
            for symmetric in (True, False):
                if bits == 1 and symmetric:
                    continue  # the package gives a one-bit symmetric scale of zero
                args = {"num_bits": bits, "type": "int", "symmetric": symmetric}
                shape = SHAPES[index % len(SHAPES)]
                if bits == 4 and not symmetric and shape[0] <= 8:
                    shape = (shape[0] + 8, shape[1])  # the package cannot take zero points of one word back
                label = f"pack{bits}-{'sym' if symmetric else 'asym'}"
                compress(
                    f"{label}-group-{index}",
                    "pack-quantized",
                    {**args, "strategy": "group", "group_size": 32},
                    shape,
                    index,
                    dtype,
                )
                odd = (shape[0], shape[1] - 3)
                compress(
                    f"{label}-channel-{index}", "pack-quantized", {**args, "strategy": "channel"}, odd, index, dtype
                )
        for strategy in ("tensor", "channel", "group"):
            extra = {"group_size": 32} if strategy == "group" else {}
            args = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, **extra}
            compress(f"int-{strategy}-{index}", "int-quantized", args, shape, index, dtype)
            args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **extra}
            compress(f"float-{strategy}-{index}", "float-quantized", args, shape, index, dtype)
        args = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}
        compress(f"naive-asym-{index}", "naive-quantized", args, shape, index, dtype)
        args = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 32]}
        compress(f"float-block-{index}", "float-quantized", args, (shape[0], shape[1] - 5), index, dtype)
        args = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
        compress(f"nvfp4-{index}", "nvfp4-pack-quantized", args, shape, index, torch.bfloat16)
        args = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
        compress(f"mxfp4-{index}", "mxfp4-pack-quantized", args, shape, index, torch.bfloat16)
        deepseek(index, shape)
    finish(f"compressed-tensors {version('compressed-tensors')}")


def speed() -> None:
    """One large tensor a type."""
    for bits in (4, 5, 8):
        args = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": 128}
        compress(f"pack{bits}-asym-group", "pack-quantized", args, LARGE, 0, torch.bfloat16)
    args = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    compress("int-channel", "int-quantized", args, LARGE, 0, torch.bfloat16)
    compress("float-channel", "float-quantized", {**args, "type": "float"}, LARGE, 0, torch.bfloat16)
    args = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    compress("nvfp4", "nvfp4-pack-quantized", args, LARGE, 0, torch.bfloat16)
    args = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    compress("mxfp4", "mxfp4-pack-quantized", args, LARGE, 0, torch.bfloat16)
    deepseek(0, LARGE, (128, 128))


def deepseek(index: int, shape: tuple[int, int], block: tuple[int, int] = (4, 16)) -> None:
    """Scaled blocks by the package's converter of DeepSeek's layout."""
    rows, columns = shape
    weight = weights(rows, columns, index).clamp(-448, 448).to(torch.float8_e4m3fn)
    generator = torch.Generator().manual_seed(index)
    scale = torch.rand(-(-rows // block[0]), -(-columns // block[1]), generator=generator) + 1e-4
    converter = FP8BlockDequantizer(targets=["re:.*up_proj"], weight_block_size=block)
    name = "model.layers.0.mlp.up_proj"
    stored = {f"{name}.weight": weight, f"{name}.weight_scale_inv": scale}
    expected = {f"{name}.weight": converter.process(dict(stored))[f"{name}.weight"]}
    section = {"quant_method": "fp8", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    timed(f"fp8block-{index}", lambda: converter.process(dict(stored)))
    add(f"fp8block-{index}", section, stored, expected, "fp8-f32-bf16/1")


main()
