"""The training graph: read, random crop, resize, colour, flip, to [-1, 1]. No randomness in here: every draw is an input.

A pixel is thus a function of the file and of the numbers fed with it, whatever the batch, the rank or the thread that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvidia.dali import Pipeline, fn, math, types

COLOURS = ("brightness", "contrast", "saturation", "hue")


def training(
    source: Callable[[], tuple[Any, ...]],
    *,
    input_px: int,
    num_candidates: int,
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    decode: str,
    horizontal_flip: bool,
    vertical_flip: bool,
    colours: Sequence[str],
    prefetch: int,
) -> Pipeline:
    """Build the pipeline; it gives (images, labels): N x input_px x input_px x 3 float32 in [-1, 1] (HWC, RGB), and N int64.

    `source` returns one batch a call and raises StopIteration at the end. Its tuple holds, in this order and of N samples each:
    file names as uint8 arrays; labels, int64; crop candidates, float32 [N, num_candidates, 4] (see `crop_window`); where
    `horizontal_flip`, int32 0 or 1; where `vertical_flip`, the same; for each name in `colours` (a subset of COLOURS in that
    order) float32: factors, and for hue degrees. What is switched off is not fed: DALI warns of inputs that nothing uses.

    `decode` is 'cpu', or 'mixed' for the GPU's decoder. With a `device_id` everything after decoding runs on that GPU.
    """
    wanted = [
        types.UINT8,
        types.INT64,
        types.FLOAT,
        *[types.INT32] * (horizontal_flip + vertical_flip),
        *[types.FLOAT] * len(colours),
    ]
    pipe = Pipeline(
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=prefetch, exec_dynamic=True
    )
    with pipe:
        name, label, candidates, *rest = fn.external_source(source=source, num_outputs=len(wanted), batch=True, dtype=wanted)
        mirror = rest.pop(0) if horizontal_flip else 0
        upside_down = rest.pop(0) if vertical_flip else None
        encoded = fn.io.file.read(name)
        anchor, shape = crop_window(fn.peek_image_shape(encoded, dtype=types.INT32), candidates, num_candidates)
        image = fn.decoders.image_slice(encoded, anchor, shape, axes=[0, 1], device=decode, output_type=types.RGB)
        if device_id is not None:
            image, label = image.gpu(), label.gpu()
        # Bilinear without antialiasing is what tf-slim trained with.
        image = fn.resize(image, size=[input_px, input_px], interp_type=types.INTERP_LINEAR, antialias=False)
        if upside_down is not None:
            image = fn.flip(image, horizontal=0, vertical=upside_down)
        if colours:
            # float32: 1.4 times as fast on a CPU as uint8, and it rounds and clamps only once, at the end.
            image = fn.color_twist(image, dtype=types.FLOAT, **dict(zip(colours, rest, strict=True)))
        image = fn.crop_mirror_normalize(
            image, mirror=mirror, mean=[127.5] * 3, std=[127.5] * 3, dtype=types.FLOAT, output_layout="HWC"
        )
        if colours:
            image = math.clamp(image, -1.0, 1.0)
        pipe.set_outputs(image, label)
    return pipe


def crop_window(size: Any, candidates: Any, num_candidates: int) -> tuple[Any, Any]:
    """Where to crop: (anchor, shape), int32 [y, x] and [height, width] in pixels. Inside a `with pipeline` block.

    `size` is the image's, int32 [height, width, ...]. A candidate is (share of the image's area, width over height, u_y, u_x);
    the u in [0, 1) place the window. The first that fits into the image is taken, else the whole image, as in tf-slim.
    """
    height, width = size[0], size[1]
    area = candidates[:, 0] * (_float(height) * _float(width))
    heights = _rounded(math.sqrt(area / candidates[:, 1]))
    widths = _rounded(math.sqrt(area * candidates[:, 1]))
    fits = (heights >= 1) & (widths >= 1) & (heights <= height) & (widths <= width)
    # The first that fits has the highest rank; no branches in a graph, so sums over a mask of one pick its values.
    rank = _int(fits) * types.Constant(list(range(num_candidates, 0, -1)), dtype=types.INT32)
    best = fn.reductions.max(rank)
    chosen = _int((rank == best) & (best > 0))
    whole = _int(best == 0)
    crop_height = _int(fn.reductions.sum(chosen * heights)) + whole * height
    crop_width = _int(fn.reductions.sum(chosen * widths)) + whole * width
    y = _place(chosen, candidates[:, 2], height - crop_height)
    x = _place(chosen, candidates[:, 3], width - crop_width)
    return fn.stack(y, x), fn.stack(crop_height, crop_width)


def _place(chosen: Any, uniforms: Any, room: Any) -> Any:
    # u has 24 bits and is below 1, so u * (room + 1) stays below room + 1 in float32 too: the window never leaves the image.
    return _int(math.floor(fn.reductions.sum(_float(chosen) * uniforms) * _float(room + 1)))


def _rounded(value: Any) -> Any:
    return _int(math.floor(value + 0.5))


def _int(value: Any) -> Any:
    return fn.cast(value, dtype=types.INT32)


def _float(value: Any) -> Any:
    return fn.cast(value, dtype=types.FLOAT)
