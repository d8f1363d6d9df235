"""What graphs refuse to decode."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types


def refused_above(most_pixels: int, encoded: Any, size: Any) -> Any:
    """`encoded` itself, or a failing run when its header claims more pixels: 1 KB can ask for 12 GB. Before anything is decoded.

    `size` is the image's, int32 [height, width, ...]. Graphs have no raise; a shape that does not fit is one, and copies nothing.
    """
    pixels = fn.cast(size[0], dtype=types.FLOAT) * fn.cast(size[1], dtype=types.FLOAT)
    too_many = fn.cast(pixels > float(most_pixels), dtype=types.INT32)
    num_bytes = fn.cast(encoded.shape()[0], dtype=types.INT32)
    return fn.reshape(encoded, shape=fn.stack(num_bytes + too_many))
