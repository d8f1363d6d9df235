"""The training graph: read, random crop, resize, flip, colour, normalise. No randomness in here: every draw is an input.

A pixel is thus a function of the file and of the numbers fed with it, whatever the batch, the rank or the thread that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvidia.dali import Pipeline, fn, math, pipeline_def, types

from pipelines.decoding import part_of_image, refused_above, whole_image
from pipelines.filters import resize_by_choice
from pipelines.settings import PipelineSettings

# A batch of 32 takes 160 MB as it is preallocated (4:4:4, 0.65 of it in hardware). Larger images make the buffers grow once.
EXPECTED_PX = 1600

Change = tuple[Callable[..., Any], Sequence[str]]
"""What changes a resized image, uint8 HWC, given the image and its parameters; and the parameters' types, names in KINDS."""
KINDS = {"float32": types.FLOAT, "int32": types.INT32}


def training(
    source: Callable[[], tuple[Any, ...]],
    settings: PipelineSettings,
    *,
    input_px: int,
    num_candidates: int,
    resize_filters: Sequence[str],
    horizontal_flip: bool,
    vertical_flip: bool,
    colours: bool,
    contrast: bool,
    mean: Sequence[float],
    std: Sequence[float],
    changes: Sequence[Change] = (),
    until: str = "all",
) -> Pipeline:
    """Build the pipeline; it gives (images, labels): N x input_px x input_px x 3 float32 (HWC, RGB), and N int64.

    Images are (value in [0, 1] - mean) / std. With `colours` they may leave that range: the caller clamps, since torch does it
    twenty times as fast as this graph would.

    `source` returns one batch a call and raises StopIteration at the end. Its tuple holds, in this order and of N samples each:
    encoded images as uint8 arrays; labels, int64; crop candidates, float32 [N,
    num_candidates, 4] (see `crop_window`); where there are several `resize_filters` (names in FILTERS), the place of one, int32;
    where `horizontal_flip`, int32 0 or 1; where `vertical_flip`, the same; the parameters of all `changes`;
    where `colours`, the matrix [N, 3, 3] and the offset
    [N, 3] of the map from RGB in 0..255 to the result, float32; where `contrast`, the matrix [N, 3, 3] by which the mean RGB of
    the resized image adds to the offset.
    What is switched off is not fed: DALI warns of inputs that nothing uses.

    `until` ends the graph early: after 'read' the images are the encoded files; after 'decode' the crops, uint8 HWC of any size,
    and after 'resize' the squares, uint8, both flipped but not coloured; `colours` is off then.
    """
    filters = list(resize_filters)
    num_ints = (len(filters) > 1) + horizontal_flip + vertical_flip
    wanted = _types(num_ints, changes, 2 * colours + contrast) if until != "read" else [types.UINT8, types.INT64]
    on_gpu = settings.device_id is not None

    def graph() -> Any:
        encoded, label, *rest = fn.external_source(source=source, num_outputs=len(wanted), batch=True, dtype=wanted)
        if until == "read":
            return encoded, label
        candidates = rest.pop(0)
        place = rest.pop(0) if len(filters) > 1 else None
        mirror = rest.pop(0) if horizontal_flip else 0
        upside_down = rest.pop(0) if vertical_flip else 0

        def flipped(image: Any) -> Any:
            return fn.flip(image, horizontal=mirror, vertical=upside_down) if horizontal_flip or vertical_flip else image

        size = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=settings.exif_orientation)
        anchor, shape = crop_window(size, candidates, num_candidates)
        encoded = refused_above(settings.most_pixels, encoded, size)
        image = decoded_crop(encoded, anchor, shape, settings)
        if until == "decode":
            return flipped(image), label
        if on_gpu:
            image, label = image.gpu(), label.gpu()
        image = resize_by_choice(image, input_px, filters, place)
        for change, kinds in changes:
            image = change(image, *[rest.pop(0) for _ in kinds])
        if until == "resize":
            return flipped(image), label
        if colours:
            return recoloured(flipped(image), *rest, on_gpu=on_gpu), label
        if vertical_flip:
            image = fn.flip(image, horizontal=0, vertical=upside_down)
        return normalised(image, mirror, mean, std), label

    # Conditionals let a part of a batch go through one operator and the rest through another.
    build = pipeline_def(graph, enable_conditionals=True)
    return build(
        batch_size=settings.batch_size,
        num_threads=settings.num_threads,
        device_id=settings.device_id,
        prefetch_queue_depth=settings.prefetch,
        exec_dynamic=True,
    )


def _types(num_ints: int, changes: Sequence[Change], num_floats: int) -> list[Any]:
    """Of all that is fed, in its order: image, label, candidates, and so on."""
    of_changes = [KINDS[kind] for _, kinds in changes for kind in kinds]
    return [types.UINT8, types.INT64, types.FLOAT, *[types.INT32] * num_ints, *of_changes, *[types.FLOAT] * num_floats]


def decoded_crop(encoded: Any, anchor: Any, shape: Any, settings: PipelineSettings) -> Any:
    """The window at `anchor` of `shape` (see `crop_window`) of each image, uint8 HWC."""
    decode, upright = settings.decode, settings.exif_orientation
    if settings.decode_roi:
        return part_of_image(encoded, anchor, shape, device=decode, exif_orientation=upright)
    # Copied, though a resize could take a region: its filter would see pixels beyond the crop's edge, unlike on a CPU.
    whole = whole_image(encoded, device=decode, exif_orientation=upright, expected_px=EXPECTED_PX)
    return fn.slice(whole, anchor, shape, axes=[0, 1])


def normalised(image: Any, mirror: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """(value in [0, 1] - mean) / std of an 8-bit image, mirrored where `mirror` is 1: float32 HWC."""
    return fn.crop_mirror_normalize(
        image,
        mirror=mirror,
        mean=[255.0 * value for value in mean],
        std=[255.0 * value for value in std],
        dtype=types.FLOAT,
        output_layout="HWC",
    )


def recoloured(image: Any, matrix: Any, offset: Any, of_mean: Any = None, *, on_gpu: bool) -> Any:
    """matrix x + of_mean m + offset for each pixel x of an 8-bit image with the mean m; float32, in one pass over the pixels."""
    if of_mean is None:
        return fn.coord_transform(image, M=matrix, T=offset, dtype=types.FLOAT)
    mean = fn.reductions.mean(image, axes=[0, 1], keep_dims=True)
    shift = fn.coord_transform(mean, M=of_mean, T=offset, dtype=types.FLOAT)
    if on_gpu:  # arguments of operators must lie on the CPU, and the mean does not
        return fn.coord_transform(image, M=matrix, dtype=types.FLOAT) + shift
    return fn.coord_transform(image, M=matrix, T=fn.reshape(shift, shape=[3]), dtype=types.FLOAT)


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
