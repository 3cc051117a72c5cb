"""bitsandbytes' own quantisers and dequantisers, on the CPU."""

from functools import partial
from importlib.metadata import version

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from packs import LARGE, SPEED, TENSORS, add, finish, timed, weights

SHAPES = [(8, 64), (3, 128), (33, 96), (5, 62), (64, 224), (7, 480), (16, 33), (40, 64), (300, 512), (9, 130)]
CPU = torch.backends.cpu.get_cpu_capability()
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def int8(codes: torch.Tensor, statistics: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return bnb.int8_vectorwise_dequant(codes, statistics).to(dtype)


def main() -> None:
    """Write every case."""
    module = "model.layers.0.mlp.up_proj"
    for index in range(1 if SPEED else TENSORS):
        shape, dtype = LARGE if SPEED else SHAPES[index % len(SHAPES)], DTYPES[index % 3]
        weight = weights(*shape, index).to(dtype)
        for kind in ("nf4", "fp4"):
            for nested in (False, True):
                block = [64, 128, 256][index % 3]
                packed, state = bnb.quantize_4bit(
                    weight, blocksize=block, compress_statistics=nested, quant_type=kind
                )
                signed = expected = bnb.dequantize_4bit(packed, state)
                # The CPU kernel takes a wrong scale where a block begins inside a row; and where it is not the one
                # for AVX-512, it gives FP4's second zero a sign.
                by_sign = CPU != "AVX512" and shape[1] % block == 0
                if shape[1] % block or (by_sign and kind == "fp4"):
                    absmax = state.absmax
                    if nested:
                        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
                    expected = _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, block, shape, dtype)
                timed(
                    f"{kind}-{'nested' if nested else 'plain'}-{index}", partial(bnb.dequantize_4bit, packed, state)
                )
                stored = {f"{module}.weight": packed}
                stored |= {f"{module}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
                section = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
                name = f"{kind}-{'nested' if nested else 'plain'}-{index}"
                add(name, section, stored, {f"{module}.weight": expected}, "bnb-f32/1")
                if by_sign and kind == "fp4":
                    add(name, section, stored, {f"{module}.weight": signed}, "bnb-f32-negative-zero/1")
        codes, statistics, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
        expected = bnb.int8_vectorwise_dequant(codes, statistics).to(dtype)
        timed(f"int8-{index}", partial(int8, codes, statistics, dtype))
        stored = {f"{module}.weight": codes, f"{module}.SCB": statistics.to(torch.float32)}
        stored[f"{module}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
        add(
            f"int8-{index}",
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            stored,
            {f"{module}.weight": expected},
            "bnb-f32/1",
            torch_dtype=str(dtype).removeprefix("torch."),
        )
    finish(f"bitsandbytes {version('bitsandbytes')}")


main()
