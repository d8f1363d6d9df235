"""Which number format this machine computes fast in, autocast for it, and whether fp32 may be TF32."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def native_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively: Ampere and later GPUs; CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` becomes bf16 where it is native, else fp32: emulated bfloat16 is slower than fp32."""
    if wanted == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return wanted


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and products in bfloat16, weights and statistics in fp32; nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def allow_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of fp32 products and convolutions to TF32 (10 bits of mantissa for 23), both or neither, from here on.

    By itself torch takes convolutions for TF32 and products not, unless TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set, as in NVIDIA's containers.
    """
    # torch has two sets of flags for this, and raises where one is read after the other alone was set. The old one sets both but
    # for cuDNN as a whole, which inductor's convolutions go by.
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32", category=UserWarning)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.fp32_precision = "tf32" if allowed else "ieee"
