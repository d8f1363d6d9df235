"""How graphs of evaluations begin: every image is decoded whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, types

from pipelines.decoding import whole_image
from pipelines.limits import refused_above


def whole_images(
    source: Callable[[], tuple[Any, ...]], most_pixels: int, decode: str, device_id: int | None, exif_orientation: bool
) -> tuple[Any, Any, Any]:
    """(images HWC, RGB, uint8; their height and width, int32; labels int64), on the GPU where there is a `device_id` but for the sides.

    To be called inside a pipeline; the arguments are those of `evaluation`.
    """
    encoded, label = fn.external_source(source=source, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT64])
    sides = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=exif_orientation)[:2]
    encoded = refused_above(most_pixels, encoded, sides)
    image = whole_image(encoded, device=decode, exif_orientation=exif_orientation)
    if device_id is not None:
        image, label = image.gpu(), label.gpu()
    return image, sides, label


def decoded(
    source: Callable[[], tuple[Any, ...]],
    *,
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    decode: str,
    prefetch: int,
    most_pixels: int,
    exif_orientation: bool = True,
) -> Pipeline:
    """Build the pipeline; it gives a list of images as decoded (uint8 HWC, RGB) and labels (N int64); arguments as in `evaluation`."""
    pipe = Pipeline(
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=prefetch, exec_dynamic=True
    )
    with pipe:
        image, _, label = whole_images(source, most_pixels, decode, device_id, exif_orientation)
        pipe.set_outputs(image, label)
    return pipe
