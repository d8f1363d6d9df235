"""Names of resize filters, and how DALI is asked for them."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types

FILTERS = {
    "bilinear": types.INTERP_LINEAR,
    "nearest": types.INTERP_NN,
    "bicubic": types.INTERP_CUBIC,
    "lanczos": types.INTERP_LANCZOS3,
    # A box average has no filter of its own in DALI; of those that there are, this one lies nearest (docs/recipes.md).
    "area": types.INTERP_GAUSSIAN,
}


def resize_by_choice(image: Any, input_px: int, names: list[str], place: Any) -> Any:
    """Resize to the square by the filter at `place` in `names` (int32 a sample; None where there is only one name).

    No antialiasing, as in TensorFlow 1, except for `area`, which is nothing else. To be called from a graph with conditionals.
    """
    size = [input_px, input_px]
    if len(names) == 1:
        return fn.resize(image, size=size, interp_type=FILTERS[names[0]], antialias=names[0] == "area")
    codes = types.Constant([int(FILTERS[name]) for name in names], dtype=types.INT32)
    kind = fn.reinterpret(codes[place], dtype=types.INTERP_TYPE)
    if "area" not in names:
        return fn.resize(image, size=size, interp_type=kind, antialias=False)
    # Whether to antialias belongs to the operator, not to the sample: hence two operators, each for a part of the batch.
    is_area = place == names.index("area")
    if is_area:
        resized = fn.resize(image, size=size, interp_type=FILTERS["area"], antialias=True)
    else:
        resized = fn.resize(image, size=size, interp_type=kind, antialias=False)
    return resized
