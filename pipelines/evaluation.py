"""The evaluation graph: whole image, its middle in one of two forms, as the network's square, normalised."""

from __future__ import annotations

import math as python_math
from collections.abc import Callable, Sequence
from typing import Any

from nvidia.dali import Pipeline, fn, math, types

from pipelines.decoding import whole_images
from pipelines.filters import FILTERS
from pipelines.settings import PipelineSettings


def evaluation(
    source: Callable[[], tuple[Any, ...]],
    settings: PipelineSettings,
    *,
    input_px: int,
    central_fraction: float,
    keep_aspect: bool,
    interpolation: str,
    antialias: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> Pipeline:
    """Build the pipeline; it gives (images, labels): N x input_px x input_px x 3 float32 (HWC, RGB), and N int64.

    Images are (value in [0, 1] - mean) / std. `source` returns (encoded images as uint8 arrays, labels int64) of one batch a
    call, the last one as short as it comes, and raises StopIteration at the end.

    Without `keep_aspect` the crop keeps `central_fraction` of each side and is squashed to the square, as in tf-slim's
    `inception_preprocessing.preprocess_for_eval`; pixel centres lie at halves, unlike in TensorFlow 1's resize. With it the
    shorter side becomes floor(input_px / central_fraction) and the square in the middle is taken, as in timm.

    `interpolation` is a name in FILTERS; `antialias` widens it where the image shrinks.
    """
    pipe = settings.empty_pipeline()
    options = {"size": [input_px, input_px], "interp_type": FILTERS[interpolation], "antialias": antialias}
    with pipe:
        image, sides, label = whole_images(source, settings)
        if keep_aspect:
            # Only the window is computed, from the whole image: at its edges the filter sees what lies beyond them.
            start, end = middle_window(sides, input_px, python_math.floor(input_px / central_fraction))
            image = fn.resize(image, roi_start=start, roi_end=end, **options)
        else:
            anchor, shape = central_window(sides, central_fraction)
            image = fn.resize(fn.slice(image, anchor, shape, axes=[0, 1]), **options)
        image = fn.crop_mirror_normalize(
            image,
            mean=[255.0 * value for value in mean],
            std=[255.0 * value for value in std],
            dtype=types.FLOAT,
            output_layout="HWC",
        )
        pipe.set_outputs(image, label)
    return pipe


def central_window(sides: Any, fraction: float) -> tuple[Any, Any]:
    """(anchor, shape) in pixels as tf.image.central_crop computes them: the margin rounded down, the same on both sides."""
    margin = fn.cast(math.floor(fn.cast(sides, dtype=types.FLOAT) * ((1.0 - fraction) / 2.0)), dtype=types.INT32)
    return margin, sides - 2 * margin


def middle_window(sides: Any, input_px: int, shorter_px: int) -> tuple[Any, Any]:
    """(start, end) in the image's own pixels, float32, of the middle square after its shorter side was made `shorter_px`.

    Rounded as torchvision's Resize and CenterCrop do, which timm uses: the longer side down, the margin half to even.
    """
    resized = shorter_px * sides // fn.reductions.min(sides)
    room = resized - input_px
    half = room // 2
    margin = half + (room - 2 * half) * (half - 2 * (half // 2))
    scale = fn.cast(sides, dtype=types.FLOAT) / fn.cast(resized, dtype=types.FLOAT)
    start = fn.cast(margin, dtype=types.FLOAT)
    return start * scale, (start + float(input_px)) * scale
