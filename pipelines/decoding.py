"""How every graph decodes. On a GPU (`device` 'mixed') as near to the CPU's pixels as its decoders can."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types


def whole_image(encoded: Any, *, device: str, exif_orientation: bool, expected_px: int = 0) -> Any:
    """Decoded images, uint8 HWC, RGB. `device` is 'cpu', or 'mixed': into the memory of the pipeline's GPU.

    On a GPU with a hardware JPEG decoder its buffers are made at the start for a batch of `expected_px` x `expected_px` images, or
    when the first images come if that is 0.
    """
    hints = {"preallocate_width_hint": expected_px, "preallocate_height_hint": expected_px}
    return fn.decoders.image(encoded, **{**_options(device, exif_orientation), **hints})


def part_of_image(encoded: Any, anchor: Any, shape: Any, *, device: str, exif_orientation: bool) -> Any:
    """Only the part at `anchor` [y, x] of `shape` [height, width] (int32, px of the upright image) is decoded.

    On a GPU this may fail or end the process: nvImageCodec 0.9.0, github.com/NVIDIA/nvImageCodec/issues/55. Hardware decoders
    have no part in it.
    """
    return fn.decoders.image_slice(encoded, anchor, shape, axes=[0, 1], **_options(device, exif_orientation))


def _options(device: str, exif_orientation: bool) -> dict[str, Any]:
    # The CPU's decoder always interpolates chroma, whatever it is told; nvJPEG repeats it unless it is asked.
    asked = {"jpeg_fancy_upsampling": True}
    return {"device": device, "output_type": types.RGB, "adjust_orientation": exif_orientation, **asked}
