"""The crops of a protocol drawn on a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inceptionctl.data.preparation import Preparation
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.protocols import Protocol, Region, single_region
from inceptionctl.run import write_atomically

FORMATS = ("png", "svg", "pdf")


def picture_format(file: Path, example: str = "crops.png") -> str:
    """png, svg or pdf by the suffix of `file`. Raises RecipeError for another, with an example of a name."""
    suffix = file.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise RecipeError(
            f"cannot draw into {file}: its suffix is none of {', '.join(FORMATS)}", f"name a file such as {example}"
        )
    return suffix


def draw_crops(image: Path, protocol: Protocol | None, preparation: Preparation, file: Path) -> None:
    """Draw the boxes of a protocol (None: the single crop) on an image, one panel a scale, into a png, svg or pdf.

    Raises DataError when the image cannot be decoded, RecipeError for another suffix, EnvironmentFault when the disk refuses.
    """
    suffix = picture_format(file)
    write_atomically(file, _drawn(image, protocol, preparation, suffix))


def crops_png(image: Path, protocol: Protocol | None, preparation: Preparation) -> bytes:
    """The same picture as a PNG. Raises DataError when the image cannot be decoded."""
    return _drawn(image, protocol, preparation, "png")


def _drawn(image: Path, protocol: Protocol | None, preparation: Preparation, suffix: str) -> bytes:
    try:
        with Image.open(image) as opened:
            turned = ImageOps.exif_transpose(opened) if preparation.exif_orientation else opened
            pixels = np.array(turned.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot decode {image}: {error}", "name an image file") from None
    return _draw(pixels, _panels(protocol, preparation, *pixels.shape[:2]), suffix)


def _panels(protocol: Protocol | None, preparation: Preparation, height: int, width: int) -> list[tuple[str, list[Region]]]:
    """(title, boxes) of each panel."""
    if protocol is None:
        return [(preparation.in_words(), [single_region(height, width, preparation)])]
    if protocol.dense:
        return [(protocol.in_words(), [(0.0, 0.0, float(height), float(width))])]
    views = protocol.views(height, width)
    per_scale = len(views) // len(protocol.shorter_sides)
    return [
        (
            f"shorter side {side} px, each mirrored too",
            [view.region for view in views[scale * per_scale : (scale + 1) * per_scale : 2]],
        )
        for scale, side in enumerate(protocol.shorter_sides)
    ]


def _draw(pixels: Any, panels: Sequence[tuple[str, Sequence[Region]]], suffix: str) -> bytes:
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    height, width = pixels.shape[:2]
    figure = Figure(figsize=(6 * columns, max(3.0, 6 * rows * height / width)), layout="constrained")
    for axes, (title, boxes) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        axes.imshow(pixels)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
        for number, (top, left, bottom, right) in enumerate(boxes):
            # Equal boxes are drawn over each other; a little room inside tells neighbours apart.
            inset = 2.0 + number % 6
            axes.add_patch(
                Rectangle(
                    (left + inset, top + inset),
                    right - left - 2 * inset,
                    bottom - top - 2 * inset,
                    fill=False,
                    linewidth=1.5,
                    edgecolor=colormaps["tab10"](number % 6),
                )
            )
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix, dpi=120)
    return picture.getvalue()
