"""The crops of a protocol drawn on a picture."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.protocols import WHOLE, Protocol, Region
from inceptionctl.storage import write_atomically

FORMATS = ("png", "svg", "pdf")
# Distinguishable with every common colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
PANEL_INCHES, MAX_ELONGATED = 6.0, 2.0
INSET = 0.008  # of the shorter side
SHADE = 110  # of 255


def picture_format(file: Path, example: str = "crops.png") -> str:
    """png, svg or pdf by the suffix of `file`. Raises RecipeError for another, with an example of a name."""
    suffix = file.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise RecipeError(
            f"cannot draw into {file}: its suffix is none of {', '.join(FORMATS)}", f"name a file such as {example}"
        )
    return suffix


def draw_crops(image: Path, protocol: Protocol | None, preparation: Preparation, file: Path) -> None:
    """Draw the boxes of a protocol (None: the single crop) on an image, a panel a scale and square, into a png, svg or pdf.

    What no crop of a panel shows is darkened. Mirrored crops have the same boxes.

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
    title = preparation.in_words() if protocol is None else protocol.in_words()
    columns = 1 if protocol is None else len(protocol.squares)
    return _draw(pixels, title, _panels(protocol, preparation, *pixels.shape[:2]), columns, suffix)


@dataclass(frozen=True)
class _Panel:
    title: str
    boxes: Mapping[str, Region]
    """By what the legend calls them."""


def _panels(protocol: Protocol | None, preparation: Preparation, height: int, width: int) -> list[_Panel]:
    """One for each square of each scale, scale by scale."""
    if protocol is None:
        return [_Panel("", {"crop": single_region(height, width, preparation)})]
    if protocol.dense:
        return [_Panel("", {"whole image": (0.0, 0.0, float(height), float(width))})]
    boxes: dict[str, dict[str, Region]] = {}
    for view in protocol.views(height, width):
        boxes.setdefault(view.square, {})["whole square" if view.place == WHOLE else view.place] = view.region
    return [_Panel(f"shorter side {square}", of) for square, of in boxes.items()]


def single_region(height: int, width: int, preparation: Preparation) -> Region:
    """The single crop of an image of height x width px, in its own pixels: squashed as in TF-slim, or with its aspect ratio kept as in timm."""
    fraction, px = preparation.central_fraction, preparation.input_px
    if not preparation.keep_aspect:
        down, across = (math.floor(side * ((1.0 - fraction) / 2.0)) for side in (height, width))
        return down, across, height - down, width - across
    shorter = math.floor(px / fraction)
    resized = [shorter * side // min(height, width) for side in (height, width)]
    scale = [side / whole for side, whole in zip((height, width), resized, strict=True)]
    top, left = (round((whole - px) / 2.0) for whole in resized)
    return top * scale[0], left * scale[1], (top + px) * scale[0], (left + px) * scale[1]


def _draw(pixels: Any, title: str, panels: Sequence[_Panel], columns: int, suffix: str) -> bytes:
    from matplotlib.figure import Figure

    rows, width = len(panels) // columns, PANEL_INCHES / columns**0.5
    shape = min(MAX_ELONGATED, max(1 / MAX_ELONGATED, pixels.shape[0] / pixels.shape[1]))
    figure = Figure(figsize=(width * columns, (width * shape + 0.3) * rows + 0.8), layout="constrained")
    figure.suptitle(textwrap.fill(title, round(12 * width * columns)), fontsize=10)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        axes.imshow(pixels)
        axes.set_title(panel.title, fontsize=9)
        axes.set_axis_off()
        _shade_outside(axes, panel.boxes.values(), *pixels.shape[:2])
        for number, (name, region) in enumerate(panel.boxes.items()):
            axes.add_patch(_outline(name, number, region, min(pixels.shape[:2])))
    handles = [_outline(name, number, (0.0, 0.0, 1.0, 1.0), 1) for number, name in enumerate(panels[0].boxes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=9, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix, dpi=120)
    return picture.getvalue()


def _shade_outside(axes: Any, boxes: Iterable[Region], height: int, width: int) -> None:
    """Darken what no box shows."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    mask = np.full((height, width, 4), (0, 0, 0, SHADE), dtype=np.uint8)
    mask[math.floor(min(tops)) : math.ceil(max(bottoms)), math.floor(min(lefts)) : math.ceil(max(rights))] = 0
    axes.imshow(mask)


def _outline(name: str, number: int, region: Region, shorter: int) -> Any:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    whole = name.startswith("whole")
    # Boxes that share an edge would hide each other; what is drawn as whole is drawn where it is.
    inset = 0.0 if whole else INSET * shorter * (1 + number)
    top, left, bottom, right = region
    return Rectangle(
        # Pixel 0 is drawn from -0.5 to 0.5.
        (left + inset - 0.5, top + inset - 0.5),
        right - left - 2 * inset,
        bottom - top - 2 * inset,
        fill=False,
        linewidth=2.0,
        linestyle="--" if whole else "-",
        edgecolor="black" if whole else COLOURS[number % len(COLOURS)],
        label=name,
        clip_on=False,
        path_effects=[withStroke(linewidth=3.5, foreground="white")],
    )
