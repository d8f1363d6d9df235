"""How every graph decodes. On a GPU (`device` 'mixed') as near to the CPU's pixels as its decoders can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, types

from pipelines.settings import PipelineSettings


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


def refused_above(most_pixels: int, encoded: Any, size: Any) -> Any:
    """`encoded` itself, or a failing run when its header claims more pixels: 1 KB can ask for 12 GB. Before anything is decoded.

    `size` is the image's, int32 [height, width, ...]. Graphs have no raise; a shape that does not fit is one, and copies nothing.
    """
    pixels = fn.cast(size[0], dtype=types.FLOAT) * fn.cast(size[1], dtype=types.FLOAT)
    too_many = fn.cast(pixels > float(most_pixels), dtype=types.INT32)
    num_bytes = fn.cast(encoded.shape()[0], dtype=types.INT32)
    return fn.reshape(encoded, shape=fn.stack(num_bytes + too_many))


def whole_images(source: Callable[[], tuple[Any, ...]], settings: PipelineSettings) -> tuple[Any, Any, Any]:
    """(images HWC, RGB, uint8; their height and width, int32; labels int64), on the GPU where there is one but for the sides.

    To be called inside a pipeline; `source` is that of `evaluation`.
    """
    encoded, label = fn.external_source(source=source, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT64])
    sides = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=settings.exif_orientation)[:2]
    encoded = refused_above(settings.most_pixels, encoded, sides)
    image = whole_image(encoded, device=settings.decode, exif_orientation=settings.exif_orientation)
    if settings.device_id is not None:
        image, label = image.gpu(), label.gpu()
    return image, sides, label


def decoded(source: Callable[[], tuple[Any, ...]], settings: PipelineSettings) -> Pipeline:
    """Build the pipeline; it gives a list of images as decoded (uint8 HWC, RGB) and labels (N int64); `source` as in `evaluation`."""
    pipe = settings.empty_pipeline()
    with pipe:
        image, _, label = whole_images(source, settings)
        pipe.set_outputs(image, label)
    return pipe
