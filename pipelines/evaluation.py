"""The evaluation graph: whole image, central crop, straight to the network's square, to [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, math, types


def evaluation(
    source: Callable[[], tuple[Any, ...]],
    *,
    input_px: int,
    central_fraction: float,
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    decode: str,
    prefetch: int,
) -> Pipeline:
    """Build the pipeline; it gives (images, labels): N x input_px x input_px x 3 float32 in [-1, 1] (HWC, RGB), and N int64.

    `source` returns (file names as uint8 arrays, labels int64) of one batch a call, the last one as short as it comes, and
    raises StopIteration at the end. The crop keeps `central_fraction` of each side and is squashed to the square, as in
    tf-slim's `inception_preprocessing.preprocess_for_eval`; pixel centres lie at halves, unlike in TensorFlow 1's resize.
    `decode` is 'cpu', or 'mixed' for the GPU's decoder; with a `device_id` everything after it runs on that GPU.
    """
    pipe = Pipeline(
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=prefetch, exec_dynamic=True
    )
    with pipe:
        name, label = fn.external_source(source=source, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT64])
        encoded = fn.io.file.read(name)
        anchor, shape = _central_window(fn.peek_image_shape(encoded, dtype=types.INT32), central_fraction)
        # The whole image, then the crop: on a CPU decoding only a part gives the same pixels, other decoders do not promise it.
        image = fn.decoders.image(encoded, device=decode, output_type=types.RGB)
        if device_id is not None:
            image, label = image.gpu(), label.gpu()
        image = fn.slice(image, anchor, shape, axes=[0, 1])
        image = fn.resize(image, size=[input_px, input_px], interp_type=types.INTERP_LINEAR, antialias=False)
        image = fn.crop_mirror_normalize(image, mean=[127.5] * 3, std=[127.5] * 3, dtype=types.FLOAT, output_layout="HWC")
        pipe.set_outputs(image, label)
    return pipe


def _central_window(size: Any, fraction: float) -> tuple[Any, Any]:
    """(anchor, shape) in pixels as tf.image.central_crop computes them: the margin rounded down, the same on both sides."""
    sides = size[:2]
    margin = fn.cast(math.floor(fn.cast(sides, dtype=types.FLOAT) * ((1.0 - fraction) / 2.0)), dtype=types.INT32)
    return margin, sides - 2 * margin
