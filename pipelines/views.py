"""The graph of evaluations by many crops: every image decoded once, resized to several sizes and as whole squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvidia.dali import Pipeline, fn, types

from pipelines.decoding import whole_images
from pipelines.filters import FILTERS
from pipelines.settings import PipelineSettings


def views(
    source: Callable[[], tuple[Any, ...]],
    settings: PipelineSettings,
    *,
    shorter_sides: Sequence[int],
    squares: Sequence[str],
    input_px: int,
    interpolation: str,
    antialias: bool,
) -> Pipeline:
    """Build the pipeline; it gives one list of images a shorter side, one a square (uint8 HWC, RGB), their (height, width) as decoded
    (int32), and labels (N int64).

    An image resized to a shorter side s has floor(s x longer / shorter) px on the other, as torchvision rounds. `squares` are 'first'
    (left or top), 'middle' and 'last' (right or bottom) of the image's own pixels, as wide as its shorter side, resized to
    input_px x input_px. `source` and the filters are those of `evaluation`.
    """
    pipe = settings.empty_pipeline()
    options = {"interp_type": FILTERS[interpolation], "antialias": antialias}
    with pipe:
        image, sides, label = whole_images(source, settings)
        shorter = fn.reductions.min(sides)
        resized = [
            fn.resize(image, size=fn.cast(side * sides // shorter, dtype=types.FLOAT), **options) for side in shorter_sides
        ]
        room = sides - shorter
        starts = {"first": 0 * room, "middle": room // 2, "last": room}
        whole = [
            fn.resize(fn.slice(image, starts[name], sides - room, axes=[0, 1]), size=[input_px, input_px], **options)
            for name in squares
        ]
        pipe.set_outputs(*resized, *whole, sides, label)
    return pipe
