"""The multi-crop evaluation protocols of the paper's tables, as lists of named boxes.

To add one: its name in ProtocolName and an entry of PROTOCOLS, and nothing else. Imports nothing heavy, for recipes and the command line.

Sources: the 144 crops of GoogLeNet (arXiv 1409.4842, section 7), which the Inception-v4 paper uses (its section 5); the 10 crops of
AlexNet; dense evaluation as ResNet's (arXiv 1512.03385, section 4.1). Neither paper defines its 12 crops: here they are GoogLeNet's
scheme at one scale and one square, so the 10 crops and the whole square, mirrored too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inceptionctl.errors import RecipeError

ProtocolName = Literal["single", "10crop", "12crop", "144crop", "dense"]
Square = Literal["first", "middle", "last"]
Region = tuple[float, float, float, float]

GOOGLENET_PX = 224
GOOGLENET_SCALES = (256, 288, 320, 352)
RESNET_SCALES = (224, 256, 384, 480, 640)
SQUARES: tuple[Square, ...] = ("first", "middle", "last")
PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
WHOLE = "whole"


@dataclass(frozen=True)
class Cut:
    """A crop to compute; equal cuts are the same pixels.

    With a `scale`, the index of one of the protocol's shorter sides: the box at (top, left) px of the image resized so, input_px wide.
    Without one: the whole square at (top, left) px of the image itself, as wide as its shorter side, resized to the input.
    """

    scale: int | None
    top: int
    left: int
    mirrored: bool


@dataclass(frozen=True)
class View:
    """One of a protocol's crops of one image."""

    square: str
    """The scale and the square of it that the crop is of, in words."""
    place: str
    """Where in the square, one of PLACES, or `whole` for all of it."""
    cut: Cut
    region: Region
    """(top, left, bottom, right) in the image's own pixels."""

    @property
    def name(self) -> str:
        """Square, place and mirroring in words."""
        return f"{self.square}, {self.place}" + (", mirrored" if self.cut.mirrored else "")


@dataclass(frozen=True)
class Protocol:
    """Crops of squares of an image that was resized to several shorter sides; `dense` takes each resized image as a whole."""

    name: ProtocolName
    input_px: int
    shorter_sides: tuple[int, ...]
    """In px, in the order of the scales."""
    squares: tuple[Square, ...]
    places: tuple[str, ...]
    whole_square: bool
    dense: bool = False

    def views(self, height: int, width: int) -> list[View]:
        """Every crop of an image of height x width px, equal ones included: scale by scale, square by square, each mirrored last."""
        found = []
        for scale in range(len(self.shorter_sides)):
            for square in self.squares:
                of = f"{self.shorter_sides[scale]} px, {_named(square, height, width)}"
                for place, cut, region in self._cuts(scale, square, height, width):
                    found += [View(of, place, cut, region), View(of, place, _mirrored(cut), region)]
        return found

    def weights(self, height: int, width: int) -> dict[Cut, int]:
        """Every distinct cut with the number of views that it stands for."""
        return Counter(view.cut for view in self.views(height, width))

    def resized(self, scale: int, height: int, width: int) -> tuple[int, int]:
        """Height and width in px of an image resized to a scale: the longer side is rounded down, as torchvision does."""
        side, shorter = self.shorter_sides[scale], min(height, width)
        return side * height // shorter, side * width // shorter

    def _cuts(self, scale: int, square: Square, height: int, width: int) -> Iterator[tuple[str, Cut, Region]]:
        side, (tall, wide) = self.shorter_sides[scale], self.resized(scale, height, width)
        top, left = square_start(square, tall, wide)
        room = side - self.input_px
        down, across = height / tall, width / wide
        for place in self.places:
            y = top + (0 if "top" in place else room if "bottom" in place else room // 2)
            x = left + (0 if "left" in place else room if "right" in place else room // 2)
            region = (y * down, x * across, (y + self.input_px) * down, (x + self.input_px) * across)
            yield place, Cut(scale, y, x, False), region
        if self.whole_square:
            shorter = min(height, width)
            y, x = square_start(square, height, width)
            yield WHOLE, Cut(None, y, x, False), (y, x, y + shorter, x + shorter)

    def in_words(self) -> str:
        """One line for people."""
        sides = ", ".join(map(str, self.shorter_sides))
        if self.dense:
            return f"the whole image with the shorter side at {sides} px, mirrored too"
        count = 2 * len(self.shorter_sides) * len(self.squares) * (len(self.places) + self.whole_square)
        return f"{count} crops of {self.input_px} px, half of them mirrored, shorter side {sides} px"


# With the scales of their sources, for an input of 224 px.
PROTOCOLS: dict[str, Protocol] = {
    "10crop": Protocol("10crop", GOOGLENET_PX, GOOGLENET_SCALES[:1], ("middle",), PLACES, whole_square=False),
    "12crop": Protocol("12crop", GOOGLENET_PX, GOOGLENET_SCALES[:1], ("middle",), PLACES, whole_square=True),
    "144crop": Protocol("144crop", GOOGLENET_PX, GOOGLENET_SCALES, SQUARES, PLACES, whole_square=True),
    "dense": Protocol("dense", GOOGLENET_PX, RESNET_SCALES, ("middle",), PLACES, whole_square=False, dense=True),
}


def make_protocol(name: ProtocolName, input_px: int, scales: Sequence[int] | None = None) -> Protocol | None:
    """The protocol `name` for an input side in px; None for 'single', the one crop of the recipe.

    `scales` are shorter sides in px; by default in proportion to the sources' for 224 px, rounded. Raises RecipeError for scales that
    are smaller than the input, or more than a protocol of one scale has.
    """
    if name == "single":
        return None
    source = PROTOCOLS[name]
    sides = tuple(scales) if scales else tuple(scaled(scale, input_px) for scale in source.shorter_sides)
    if len(source.shorter_sides) == 1 and len(sides) != 1:
        raise RecipeError(f"{name} has one scale, not {len(sides)}", "give --scales one number, or take --protocol 144crop")
    if not source.dense and min(sides) < input_px:
        raise RecipeError(
            f"a scale of {min(sides)} px is smaller than the network's input of {input_px} px",
            "scales are shorter sides in px, at least the input's side",
        )
    if len(set(sides)) != len(sides):
        raise RecipeError(f"--scales names one scale twice: {', '.join(map(str, sides))}", "name each once")
    return replace(source, input_px=input_px, shorter_sides=sides)


def square_start(name: str, height: int, width: int) -> tuple[int, int]:
    """(top, left) of the 'first' (left or top), 'middle' or 'last' square of an image, as wide as its shorter side, in px."""
    shorter = min(height, width)
    down, across = (_start(name, side - shorter) for side in (height, width))
    return down, across


def _start(name: str, room: int) -> int:
    return {"first": 0, "middle": room // 2, "last": room}[name]


def scaled(scale: int, input_px: int) -> int:
    """A scale that a source gives for an input of 224 px, for another input: the nearest px, halves up."""
    return (2 * scale * input_px + GOOGLENET_PX) // (2 * GOOGLENET_PX)


def _mirrored(cut: Cut) -> Cut:
    return Cut(cut.scale, cut.top, cut.left, not cut.mirrored)


def _named(square: Square, height: int, width: int) -> str:
    if square == "middle":
        return "middle square"
    first, last = ("left", "right") if width >= height else ("top", "bottom")
    return f"{first if square == 'first' else last} square"
