"""Which number format this machine computes fast in, and autocast for it."""

from __future__ import annotations

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
