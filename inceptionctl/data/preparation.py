"""How an image is prepared for a trained network: what an evaluation, an export and a prediction must agree on."""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The recipe's evaluation keys with the network's input."""

    input_px: int
    """Side of the square input in pixels."""
    central_fraction: float
    """Share of each side that the central crop keeps; with `keep_aspect` the shorter side becomes input_px over this."""
    keep_aspect: bool
    """False: squashed to the square, as tf-slim. True: the aspect ratio is kept and the middle square taken, as timm."""
    interpolation: str
    """Resize filter."""
    antialias: bool
    """Whether the filter widens where the image shrinks, as Pillow's do."""
    mean: Triple
    """Subtracted from the R, G, B values in [0, 1]."""
    std: Triple
    """Divisor after that."""
    exif_orientation: bool
    """Whether a photograph is first turned upright as its EXIF data say."""

    def in_words(self) -> str:
        """One line for people: the crop and the filter."""
        filtered = f"{self.interpolation}{', antialiased' if self.antialias else ''}"
        filtered += "" if self.exif_orientation else ", EXIF orientation ignored"
        if self.keep_aspect:
            resized = f"resized with the shorter side to {self.input_px} / {self.central_fraction:g}"
            return f"one central crop of {self.input_px} px, {resized}, {filtered}"
        return f"one central crop of {self.central_fraction:g} of each side, {self.input_px} px, {filtered}"
