"""How graphs of evaluations begin: every image is decoded whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, types

from pipelines.decoding import whole_image
from pipelines.limits import refused_above
from pipelines.settings import PipelineSettings


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
