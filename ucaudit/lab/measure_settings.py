"""How numbers were computed: the switches that decide bits, pinned while measuring and recorded afterwards.

torch promises equal results on the same software and hardware only. So the record names both, and
:func:`tolerance` says by how much ln ratio may differ elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from ucaudit.core.errors import DeviceUnavailableError, InputError, UnavailableError, missing_extra
from ucaudit.core.stats import numerical_tolerance

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

Dtype = Literal["fp32", "bf16"]
DTYPES: Final[dict[str, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIBRARIES: Final = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
_FPMATH: Final = "DNNL_DEFAULT_FPMATH_MODE"


@dataclass(frozen=True)
class ComputeSettings:
    """Everything that is known to move bits.

    Attributes:
        dtype: of parameters and activations: ``fp32`` or ``bf16``. Log-softmax is always fp32, KL sums fp64.
        attention, experts: the implementations inside transformers.
        model_class: the transformers class.
        execution: ``whole`` models, or ``layers`` one at a time.
        batch: windows in a forward pass; always 1, so nothing is padded.
        threads: CPU threads of torch.
        device_class: ``cpu x86_64 AVX512``, ``cuda NVIDIA H200``: a kind of machine, never a certain one.
        float32_matmul_precision: torch's switch; ``highest`` means no TF32 and no bf16 inside.
        tf32: whether CUDA may use TF32 in matrix products or convolutions.
        deterministic_algorithms: torch's switch.
        dnnl_default_fpmath_mode, cublas_workspace_config: environment variables as found, None if unset.
        cuda: version of the CUDA runtime torch was built with, None on CPU.
        libraries: name → version.
    """

    dtype: Dtype
    attention: str
    experts: str
    model_class: str
    execution: str
    batch: int
    threads: int
    device_class: str
    float32_matmul_precision: str
    tf32: bool
    deterministic_algorithms: bool
    dnnl_default_fpmath_mode: str | None
    cublas_workspace_config: str | None
    cuda: str | None
    libraries: dict[str, str]

    def to_record(self) -> dict[str, str | int | float | bool | None]:
        """The settings in the record's spelling, without the libraries."""
        return {
            "dtype": self.dtype,
            "attention": self.attention,
            "experts": self.experts,
            "modelClass": self.model_class,
            "execution": self.execution,
            "batch": self.batch,
            "threads": self.threads,
            "deviceClass": self.device_class,
            "float32MatmulPrecision": self.float32_matmul_precision,
            "tf32": self.tf32,
            "deterministicAlgorithms": self.deterministic_algorithms,
            "dnnlDefaultFpmathMode": self.dnnl_default_fpmath_mode,
            "cublasWorkspaceConfig": self.cublas_workspace_config,
            "cuda": self.cuda,
        }


def torch_dtype(name: str) -> torch.dtype:
    """``fp32`` or ``bf16`` as torch has it. Raises InputError."""
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, found {name!r}")
    return DTYPES[name]


def device_class(device: str) -> str:
    """The kind of machine: processor architecture and vector extension, or the GPU's product name.

    Raises:
        DeviceUnavailableError: neither ``cpu`` nor a CUDA device that is there.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if kind != "cuda":
        raise DeviceUnavailableError("measuring is done on cpu or cuda", subject=device, hint="--device cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailableError("no usable CUDA device", subject=device, hint="--device cpu")
    return f"cuda {torch.cuda.get_device_name(device)}"


@contextmanager
def pinned_arithmetic(dtype: str, device: str, threads: int | None) -> Iterator[None]:
    """Fix every switch that decides bits, and put all back afterwards.

    Args:
        dtype: ``fp32`` or ``bf16``.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        UnavailableError: oneDNN is told to compute fp32 products in a narrower type.
    """
    fpmath = os.environ.get(_FPMATH, "STRICT")
    if dtype == "fp32" and fpmath.upper() not in ("STRICT", ""):
        raise UnavailableError(
            f"{_FPMATH} is {fpmath!r}: fp32 products would not be fp32",
            subject="environment",
            hint=f"unset {_FPMATH}",
        )
    if device.startswith("cuda"):
        # cuBLAS reads it when its first handle is made; without it, deterministic algorithms refuse to run.
        os.environ.setdefault(_WORKSPACE, ":4096:8")
    filling: Any = torch.utils.deterministic  # a module whose class has the property
    before = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
    )
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
        filling.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.allow_tf32 = before[2]
        torch.backends.cudnn.benchmark = before[3]
        torch.use_deterministic_algorithms(before[4], warn_only=before[5])
        filling.fill_uninitialized_memory = before[6]


def current_settings(
    dtype: Dtype, device: str, *, attention: str, experts: str, model_class: str, execution: str
) -> ComputeSettings:
    """The switches as they stand now; called inside :func:`pinned_arithmetic`. Raises DeviceUnavailableError."""
    on_cuda = device.startswith("cuda")
    return ComputeSettings(
        dtype=dtype,
        attention=attention,
        experts=experts,
        model_class=model_class,
        execution=execution,
        batch=1,
        threads=torch.get_num_threads(),
        device_class=device_class(device),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        tf32=bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        dnnl_default_fpmath_mode=os.environ.get(_FPMATH),
        cublas_workspace_config=os.environ.get(_WORKSPACE),
        cuda=torch.version.cuda if on_cuda else None,
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )


def tolerance(settings: ComputeSettings, tokens: int, *, same_stack: bool = False) -> float:
    """How far ln ratio may lie from this result when somebody measures again.

    Args:
        settings: of the measurement.
        tokens: scored tokens in all windows.
        same_stack: the other measurement has the same settings; then the per-token values must be equal to the
            bit, and so must ln ratio.

    Returns:
        0 on the same stack; else :func:`ucaudit.core.stats.numerical_tolerance`.
    """
    return 0.0 if same_stack else numerical_tolerance(settings.dtype, tokens)
