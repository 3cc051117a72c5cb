"""transformers' own readers of gpt-oss's MXFP4 experts and of FP8 weights."""

from functools import partial
from importlib.metadata import version

import torch
from packs import LARGE, SPEED, TENSORS, add, finish, timed, weights
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors


def main() -> None:
    """Write every case."""
    for index in range(1 if SPEED else TENSORS):
        generator = torch.Generator().manual_seed(index)
        experts, rows, groups = 1 + index % 3, 3 + 2 * index, 1 + index % 4
        if SPEED:
            experts, rows, groups = 4, LARGE[0] // 4, LARGE[1] // 32
        blocks = torch.randint(0, 256, (experts, rows, groups, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(90, 160, (experts, rows, groups), generator=generator, dtype=torch.uint8)
        if index == 0:
            scales.view(-1)[:3] = torch.tensor([0, 1, 5], dtype=torch.uint8)
        name = "model.layers.0.mlp.experts.gate_up_proj"
        timed(f"mxfp4-{index}", partial(convert_moe_packed_tensors, blocks, scales))
        expected = convert_moe_packed_tensors(blocks, scales)
        stored = {f"{name}_blocks": blocks, f"{name}_scales": scales}
        add(f"mxfp4-{index}", {"quant_method": "mxfp4"}, stored, {name: expected}, "mxfp4-f32-bf16/1")
        fp8(index)
    finish(f"transformers {version('transformers')}")


def fp8(index: int) -> None:
    """A scale a tensor, a row and a block of 2 × 16."""
    rows, columns = LARGE if SPEED else (4 + 2 * index, 32 * (1 + index % 4))
    generator = torch.Generator().manual_seed(index)
    dtype = [torch.float8_e4m3fn, torch.float8_e5m2][index % 2]
    codes = weights(rows, columns, index).clamp(-448, 448).to(dtype)
    reader = Fp8Dequantize(None)
    name = "model.layers.0.mlp.up_proj"
    for label, grid in (("tensor", (1, 1)), ("channel", (rows, 1)), ("block", (rows // 2, columns // 16))):
        scale = torch.rand(grid, generator=generator) + 1e-3
        suffix = "weight_scale_inv" if label == "block" else "weight_scale"
        stored = {f"{name}.weight": codes, f"{name}.{suffix}": scale}
        section = {"quant_method": "fp8", "weight_block_size": [2, 16]}
        for wanted, profile in ((torch.bfloat16, "fp8-f32-bf16/1"), (torch.float32, "fp8-f32/1")):
            timed(f"fp8{label}-{index}", partial(reader._dequantize_one, codes, scale, wanted))
            expected = {f"{name}.weight": reader._dequantize_one(codes, scale, wanted)}
            add(f"fp8{label}-{index}", section, stored, expected, profile)


main()
