"""How a rank reads and decodes its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Decode = Literal["cpu", "mixed"]


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """What all loaders share: where images are decoded and by how many threads. What becomes of an image, its transforms say."""

    num_threads: int
    """CPU threads."""
    seconds_to_read: float
    """An image that has not been read after so long, while nothing else was waited for, is a bad one."""
    device_id: int | None = None
    """The GPU that batches lie on; None keeps everything on the CPU."""
    decode: Decode = "cpu"
    """`mixed` decodes JPEGs on the GPU."""
    decode_roi: bool = True
    """Only the crop of a training image is decoded, else all of it: the same pixels on a CPU, where the first is faster."""
    dtype: torch.dtype = torch.float32
    """Of training images: float32, or on a CPU bfloat16, what a network under autocast makes of its input anyway, in half the memory."""
    prefetch: int = 2
    """Batches that DALI decodes ahead."""
