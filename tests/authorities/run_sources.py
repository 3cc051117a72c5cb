"""GPTQModel's packers and ``model_dequant``, AutoAWQ's ``dequantize_gemm``, ModelOpt's NVFP4, from source releases.

Installing them builds CUDA kernels or asks for another torch, so only the modules that pack and dequantise
are loaded, unchanged, as parts of packages whose start-up code is left out.
"""

import importlib
import logging
import sys
import types
from pathlib import Path

import torch
from packs import LARGE, OUT, SPEED, TENSORS, add, finish, timed, weights
from safetensors import safe_open

GPTQMODEL, AUTOAWQ, MODELOPT = map(Path, sys.argv[3:6])


def package(name: str, place: Path) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(place)]
    sys.modules[name] = module


package("gptqmodel", GPTQMODEL / "gptqmodel")
package("gptqmodel.utils", GPTQMODEL / "gptqmodel" / "utils")
package("gptqmodel.quantization", GPTQMODEL / "gptqmodel" / "quantization")
logger = types.ModuleType("gptqmodel.utils.logger")
logger.setup_logger = lambda: logging.getLogger("gptqmodel")
sys.modules["gptqmodel.utils.logger"] = logger
machine = types.ModuleType("gptqmodel.utils.torch")
machine.HAS_NPU = False
sys.modules["gptqmodel.utils.torch"] = machine
dequant = importlib.import_module("gptqmodel.utils.model_dequant")
planar = importlib.import_module("gptqmodel.utils.planar_packing")
package("awq", AUTOAWQ / "awq")
package("awq.utils", AUTOAWQ / "awq" / "utils")
awq = importlib.import_module("awq.utils.packing_utils")

for part in ("", ".torch", ".torch.quantization", ".torch.quantization.qtensor"):
    package(f"modelopt{part}", MODELOPT / "modelopt" / part.replace(".", "/").lstrip("/"))
kernels = types.ModuleType("modelopt.torch.quantization.backends.utils")
kernels.fp4_compatible = lambda: False
sys.modules["modelopt.torch.quantization.backends"] = types.ModuleType("modelopt.torch.quantization.backends")
sys.modules["modelopt.torch.quantization.backends.utils"] = kernels
helpers = types.ModuleType("modelopt.torch.quantization.utils")
helpers.fsdp2_aware_weight_update = helpers.patch_fsdp_mp_dtypes = helpers.reduce_amax = (
    helpers.reduce_block_amax
) = helpers.reduce_block_padding = None
sys.modules["modelopt.torch.quantization.utils"] = helpers
numbers = types.ModuleType("modelopt.torch.quantization.utils.numeric_utils")
numbers.E2M1_MAX, numbers.E4M3_MAX, numbers.fp8_max_for_normalization = 6.0, 448.0, None
sys.modules["modelopt.torch.quantization.utils.numeric_utils"] = numbers
modelopt = importlib.import_module("modelopt.torch.quantization.qtensor.nvfp4_tensor")

MODULE = "model.layers.0.mlp.up_proj"
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def gptq(index: int, bits: int, form: str, ordered: bool) -> None:
    rows, columns, group = 32 * (1 + index % 3), 64 * (1 + index % 4), [32, 64, -1][index % 3]
    if SPEED:
        (rows, columns), group = LARGE, 128
    size = columns if group == -1 else group
    groups = columns // size
    generator = torch.Generator().manual_seed(index)
    codes = torch.randint(0, 1 << bits, (columns, rows), generator=generator, dtype=torch.int32)
    zeros = torch.randint(0, 1 << bits, (groups, rows), generator=generator, dtype=torch.int32)
    scales = weights(max(3, groups), rows, index)[:groups].clamp(-200, 200).to(DTYPES[index % 3])
    g_idx = (torch.arange(columns) // size).to(torch.int32)
    if ordered:
        g_idx = g_idx[torch.randperm(columns, generator=generator)]
    planes = form == "gptq_p" or bits in planar.PLANAR_BITS
    pack = lambda values: dequant.pack_cols(values, bits, pack_dtype=torch.int32, planar=planes)  # noqa: E731
    stored_zeros = pack(zeros)
    if form == "gptq" and not planes:
        stored_zeros = dequant._revert_gptq_v1_qzeros_correction(stored_zeros, bits)
    stored = {
        f"{MODULE}.qweight": pack(codes.t().contiguous()).t(),
        f"{MODULE}.qzeros": stored_zeros,
        f"{MODULE}.scales": scales,
        f"{MODULE}.g_idx": g_idx,
    }
    section = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": ordered, "sym": False}
    section["checkpoint_format"] = form
    name = f"gptq{bits}-{form}-{'ordered' if ordered else 'plain'}-{index}"
    bf16 = torch.bfloat16
    if SPEED:
        from packs import save

        save(stored, OUT / "work.safetensors")
        timed(name, lambda: dequant.convert_gptq_file(OUT / "work.safetensors", bf16, section, "cpu"))
    add(name, section, stored, decoded(name, stored, section, bf16), "gptq-f32-bf16/1")
    add(name, section, stored, decoded(name, stored, section, scales.dtype), "gptq-scale/1")


def decoded(name: str, stored: dict, section: dict, dtype: torch.dtype) -> dict:
    path = OUT / name / "model.safetensors"
    if not path.exists():
        from packs import save

        path = OUT / "work.safetensors"
        save(stored, path)
    result = dequant.convert_gptq_file(path, dtype, section, "cpu")
    return {f"{MODULE}.weight": result[f"{MODULE}.weight"]}


def awq_gemm(index: int) -> None:
    rows, columns, group = 8 * (3 + 2 * index), 64 * (1 + index % 3), [32, 64][index % 2]
    if SPEED:
        (rows, columns), group = LARGE, 128
    generator = torch.Generator().manual_seed(index)
    words = torch.randint(-(2**31), 2**31, (columns, rows // 8), generator=generator).to(torch.int32)
    zeros = torch.randint(-(2**31), 2**31, (columns // group, rows // 8), generator=generator).to(torch.int32)
    scales = weights(max(3, columns // group), rows, index)[: columns // group].to(torch.float16)
    stored = {f"{MODULE}.qweight": words, f"{MODULE}.qzeros": zeros, f"{MODULE}.scales": scales}
    section = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    timed(f"awq-{index}", lambda: awq.dequantize_gemm(words, zeros, scales, 4, group))
    exact = awq.dequantize_gemm(words, zeros, scales, 4, group).t()
    wide = awq.dequantize_gemm(words, zeros, scales.float(), 4, group).t()
    add(f"awq-{index}", section, stored, {f"{MODULE}.weight": exact}, "awq-scale/1")
    add(f"awq-{index}", section, stored, {f"{MODULE}.weight": wide.to(torch.bfloat16)}, "awq-f32-bf16/1")


def small_floats(index: int) -> None:
    rows, columns = LARGE if SPEED else (3 + 2 * index, 32 * (1 + index % 4))
    weight = weights(rows, columns, index).clamp(-448, 448)
    generator = torch.Generator().manual_seed(index)
    for label, shape in (("tensor", ()), ("channel", (rows, 1))):
        dtype = torch.float8_e4m3fn if index % 2 else torch.float8_e5m2
        scale = (torch.rand(shape, generator=generator) + 1e-3).to([torch.float32, torch.bfloat16][index % 2])
        stored = {f"{MODULE}.weight": weight.to(dtype), f"{MODULE}.weight_scale": scale}
        shard(stored, f"fp8{label}-{index}", {"quant_method": "fp8"}, "fp8-bf16/1", "fp8")
    codes = torch.randint(0, 256, (rows, columns // 2), generator=generator, dtype=torch.uint8)
    scale = (torch.rand(rows, columns // 16, generator=generator) * 400 + 0.01).to(torch.float8_e4m3fn)
    stored = {
        f"{MODULE}.weight": codes,
        f"{MODULE}.weight_scale": scale,
        f"{MODULE}.weight_scale_2": torch.tensor(2.0**-7 * (1 + index / 10)),
    }
    section = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    shard(stored, f"nvfp4-{index}", section, "nvfp4-bf16/1", "nvfp4")
    theirs = modelopt.NVFP4QTensor(torch.Size((rows, columns)), torch.bfloat16, codes)
    options = {"scale": scale, "double_scale": stored[f"{MODULE}.weight_scale_2"], "block_sizes": {-1: 16}}
    timed(f"nvfp4-{index}", lambda: theirs.dequantize(torch.bfloat16, **options))
    expected = theirs.dequantize(
        torch.bfloat16, scale=scale, double_scale=stored[f"{MODULE}.weight_scale_2"], block_sizes={-1: 16}
    )
    add(f"nvfp4-{index}", section, stored, {f"{MODULE}.weight": expected}, "nvfp4-f32-bf16/1")


def shard(stored: dict, name: str, section: dict, profile: str, kind: str) -> None:
    from packs import save

    path = OUT / "work.safetensors"
    save(stored, path)
    with safe_open(path, framework="pt", device="cpu") as reader:
        if kind == "fp8":
            result = dequant.convert_fp8_shard(reader, torch.bfloat16, block_shape=None)
        else:
            result = dequant.convert_nvfp4_shard(reader, torch.bfloat16)
    add(name, section, stored, {f"{MODULE}.weight": result[f"{MODULE}.weight"]}, profile)


def main() -> None:
    """Write every case."""
    for index in range(1 if SPEED else TENSORS):
        for bits in range(2, 9):
            for form in ("gptq", "gptq_v2", "gptq_p"):
                if bits in planar.PLANAR_BITS and form == "gptq":
                    continue
                gptq(index, bits, form, ordered=bool(index % 2))
        awq_gemm(index)
        small_floats(index)
    finish("gptqmodel 7.7.0, autoawq 0.2.9 and nvidia-modelopt 0.47.0, from source")


main()
