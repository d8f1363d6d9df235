"""Each operation against Pillow's own, at values on both sides."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import fn as dali
from nvidia.dali import pipeline_def, types
from PIL import Image, ImageEnhance, ImageOps

from inceptionctl.augmentations.operations import NAMES, numbered, operate
from tests.data.conftest import photo

SIDE = 64
FILL = 100
GRAY = (FILL,) * 3


def warped(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GRAY)


PILLOWS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, v: image,
    "shear_x": lambda image, v: warped(image, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda image, v: warped(image, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda image, v: warped(image, (1, 0, -v * SIDE, 0, 1, 0)),
    "translate_y": lambda image, v: warped(image, (1, 0, 0, 0, 1, -v * SIDE)),
    "rotate": lambda image, v: image.rotate(v, Image.Resampling.NEAREST, fillcolor=GRAY),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "solarize": lambda image, v: ImageOps.solarize(image, int(v)),
    "autocontrast": lambda image, v: ImageOps.autocontrast(image),
    "equalize": lambda image, v: ImageOps.equalize(image),
    "invert": lambda image, v: ImageOps.invert(image),
}
VALUES: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("shear_x", "shear_y"), (-0.3, 0.0, 0.99)),
    **dict.fromkeys(("translate_x", "translate_y"), (-0.25, 0.0, 0.453)),
    "rotate": (-30.0, 0.0, 135.0),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (0.01, 0.4, 1.0, 1.9)),
    "posterize": (2, 4, 8),
    "solarize": (0, 100, 256),
}
CASES = [(name, value) for name in NAMES for value in VALUES.get(name, (0.0,))]
WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# Levels of 255 that a pixel may be off, 1 elsewhere: colours are rounded another way. Equalize is OpenCV's.
CLOSE = {**dict.fromkeys(WARPS, 0), "identity": 0, "posterize": 0, "solarize": 0, "invert": 0, "equalize": 4}


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """Of 40 to 215, so that autocontrast has something to do."""
    return (40 + photo(3, SIDE, SIDE) * (175 / 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def operated(picture: NDArray[np.uint8]) -> dict[tuple[str, float], NDArray[np.uint8]]:
    """All cases in one batch."""
    places = np.array([NAMES.index(name) for name, _ in CASES])
    kinds, numbers = numbered(places, np.array([value for _, value in CASES], np.float64), SIDE)

    @pipeline_def(batch_size=len(CASES), num_threads=1, device_id=None, enable_conditionals=True, exec_dynamic=True)
    def graph():  # type: ignore[no-untyped-def]
        fed = ([picture] * len(CASES), kinds, numbers)
        wanted = [types.UINT8, types.INT32, types.FLOAT]
        image, kind, number = dali.external_source(lambda: fed, num_outputs=3, dtype=wanted, layout=["HWC", "", ""])
        return operate(image, kind, number, float(FILL))

    (made,) = graph().run()
    return {case: np.array(made.at(i)) for i, case in enumerate(CASES)}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_an_operation_is_pillows(
    picture: NDArray[np.uint8], operated: dict[tuple[str, float], NDArray[np.uint8]], name: str, value: float
) -> None:
    expected = np.asarray(PILLOWS[name](Image.fromarray(picture), value)).astype(int)
    off = np.abs(operated[name, value].astype(int) - expected).max(axis=-1)
    far = off > CLOSE.get(name, 1)
    if name == "sharpness":
        far = far[1:-1, 1:-1]  # Pillow leaves the outermost pixels as they are
    assert not far.any()
