"""Boxes and pixels of every protocol against a plain Pillow transcription of its source, on real photographs of all shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import ImageViews, ViewLoader
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.crop_boxes import single_region
from inceptionctl.evaluate.crops import crop_probabilities, cut_out
from inceptionctl.evaluate.inputs import folder_of
from inceptionctl.protocols import PROTOCOLS, Cut, Protocol, ProtocolName, make_protocol, scaled
from tests.data.conftest import IMAGES
from tests.defaults import preparation

# Landscape, a portrait by its EXIF data, nearly square, square, and one that is smaller than every scale.
PHOTOGRAPHS = (
    "landscape.jpg",
    "portrait_by_exif.jpg",
    "nearly_square_partially_interleaved.jpg",
    "square.jpg",
    "small.jpg",
)
PX = 107
NAMES = ("10crop", "12crop", "144crop")


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    return [IMAGES / "shapes" / name for name in PHOTOGRAPHS]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def loaded(paths: list[Path], protocol: Protocol) -> list[ImageViews]:
    loader = ViewLoader(
        folder_of(paths),
        [range(3), range(3, len(paths))],
        preparation(PX, antialias=True),
        LoaderSettings(num_threads=1, seconds_to_read=60.0),
        shorter_sides=protocol.shorter_sides,
        squares=protocol.squares if protocol.whole_square else (),
    )
    pictures = [picture for batch in loader for picture in batch]
    loader.close()
    return pictures


def transcribed(image: Image.Image, name: str, scales: tuple[int, ...]) -> Iterator[Image.Image]:
    """GoogLeNet, section 7: "we resize the image to 4 scales where the shorter dimension is 256, 288, 320 and 352 respectively, take the
    left, center and right square of these resized images (in the case of portrait images, we take the top, center and bottom squares). For
    each square, we then take the 4 corners and the center 224 x 224 crop as well as the square resized to 224 x 224, and their mirrored
    versions." The square that is resized is cut from the image itself.
    """
    width, height = image.size
    for side in scales:
        resized = image.resize(
            (side, int(side * height / width)) if width < height else (int(side * width / height), side),
            Image.Resampling.BILINEAR,
        )
        for number in (0, 1, 2) if name == "144crop" else (1,):
            x, y = ((resized.width - side) * number // 2, (resized.height - side) * number // 2)
            square = resized.crop((x, y, x + side, y + side))
            far, half = side - PX, (side - PX) // 2
            crops = [square.crop((a, b, a + PX, b + PX)) for a, b in ((0, 0), (far, 0), (0, far), (far, far), (half, half))]
            if name != "10crop":
                short = min(width, height)
                x, y = (width - short) * number // 2, (height - short) * number // 2
                crops.append(image.crop((x, y, x + short, y + short)).resize((PX, PX), Image.Resampling.BILINEAR))
            for crop in crops:
                yield crop
                yield ImageOps.mirror(crop)


@pytest.mark.parametrize("name", NAMES)
def test_every_view_is_the_box_of_the_source(photographs: list[Path], name: str) -> None:
    protocol = make_protocol(name, PX)
    for path, picture in zip(photographs, loaded(photographs, protocol), strict=True):
        image = opened(path)
        assert (picture.width, picture.height) == image.size
        views = protocol.views(picture.height, picture.width)
        crops = list(transcribed(image, name, protocol.shorter_sides))
        assert len(views) == len(crops) == int(name.removesuffix("crop"))
        for view, crop in zip(views, crops, strict=True):
            ours = cut_out(picture, view.cut, PX).numpy().astype(int)
            theirs = np.asarray(crop).astype(int)
            # Decoders and filters of two libraries differ by some levels; a box that is off by a pixel by more than that.
            assert np.abs(ours - theirs).mean() < 1.0, (path.name, view.name)
            assert view.name.endswith("mirrored") == view.cut.mirrored


def test_a_box_off_by_a_pixel_would_be_noticed(photographs: list[Path]) -> None:
    protocol = make_protocol("144crop", PX)
    picture = loaded(photographs, protocol)[3]
    crop = np.asarray(next(iter(transcribed(opened(photographs[3]), "144crop", protocol.shorter_sides)))).astype(int)
    off = cut_out(picture, Cut(0, 0, 1, False), PX).numpy().astype(int)
    assert np.abs(off - crop).mean() > 1.0


def test_regions_are_where_the_pixels_come_from() -> None:
    for height, width in ((480, 640), (640, 480), (300, 300), (90, 131)):
        protocol = make_protocol("144crop", PX)
        for view in protocol.views(height, width):
            top, left, bottom, right = view.region
            assert 0 <= top < bottom <= height + 1e-6 and 0 <= left < right <= width + 1e-6
            if view.cut.scale is None:
                assert (bottom - top, right - left) == (min(height, width), min(height, width))
            else:
                tall, wide = protocol.resized(view.cut.scale, height, width)
                assert (top * tall / height, left * wide / width) == pytest.approx((view.cut.top, view.cut.left))


@pytest.mark.parametrize(("height", "width", "different"), [(480, 640, 126), (640, 480, 126), (512, 512, 42)])
def test_equal_crops_are_computed_once(height: int, width: int, different: int) -> None:
    weights = make_protocol("144crop", 299).weights(height, width)
    assert len(weights) == different and sum(weights.values()) == 144


def test_scales_follow_the_input() -> None:
    assert make_protocol("144crop", 224).shorter_sides == (256, 288, 320, 352)
    assert make_protocol("144crop", 299).shorter_sides == (342, 384, 427, 470)
    assert make_protocol("dense", 224).shorter_sides == (224, 256, 384, 480, 640)
    assert [scaled(256, px) for px in (75, 299)] == [86, 342]
    assert make_protocol("10crop", 299, [320]).shorter_sides == (320,)


@pytest.mark.parametrize(
    ("name", "scales", "words"),
    [("144crop", [200, 400], "smaller than"), ("10crop", [300, 320], "one scale"), ("144crop", [300, 300], "twice")],
)
def test_scales_that_cannot_be(name: str, scales: list[int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make_protocol(name, 299, scales)


@pytest.mark.parametrize("workers", [0, 3])
def test_weighted_means_equal_the_plain_mean_over_all_views(photographs: list[Path], workers: int) -> None:
    """A network whose answer depends on every pixel; the mean over 144 separate passes."""
    protocol = make_protocol("144crop", PX)
    pictures = loaded(photographs, protocol)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 7, PX)

    def logits(images: torch.Tensor) -> torch.Tensor:
        return 3.0 * layer(images).flatten(1)

    def normalise(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().permute(0, 3, 1, 2) / 127.5 - 1.0

    answers = crop_probabilities(
        [pictures[:2], pictures[2:]],
        protocol,
        lambda pixels: logits(normalise(pixels)).softmax(1),
        batch_size=32,
        num_workers=workers,
    )
    found = torch.cat(list(answers))
    for picture, probabilities in zip(pictures, found, strict=True):
        views = protocol.views(picture.height, picture.width)
        with torch.no_grad():
            each = torch.cat([logits(normalise(cut_out(picture, view.cut, PX)[None])).softmax(1) for view in views])
        assert torch.allclose(probabilities, each.mean(0), atol=1e-5)
        assert each.std(0).max() > 0.01  # else any few of them would do


def test_every_name_has_an_entry() -> None:
    assert get_args(ProtocolName) == ("single", *PROTOCOLS)
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


def test_single_regions_in_both_forms() -> None:
    assert single_region(480, 640, preparation(299, central_fraction=0.875)) == (30, 40, 450, 600)
    kept = single_region(480, 640, preparation(299, central_fraction=0.875, keep_aspect=True))
    # 341 x 454 px, the middle 299: (21, 78 rounded from 77.5).
    assert kept == pytest.approx((21 * 480 / 341, 78 * 640 / 454, 320 * 480 / 341, 377 * 640 / 454))
