"""A sheet of training images: the network's pixels, and what was drawn for them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.errors import RecipeError
from inceptionctl.stages.preview import CELL_PX, PreviewRequest, preview
from tests.commands import inceptionctl, sets
from tests.data.conftest import photo

PLAIN = (
    *("model.num_classes=2", f"model.input_px={CELL_PX}", "model.width=0.125"),
    *("data.augment.crop_area=[1,1]", "data.augment.crop_aspect=[1,1]", "data.augment.horizontal_flip=0"),
    *("data.augment.brightness=0", "data.augment.saturation=0"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two lossless squares as large as a cell of the sheet."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for number in range(4):
            file = root / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(number, CELL_PX, CELL_PX)).save(file)
    return root


def test_a_cell_has_the_pixels_of_the_network(photos: Path, tmp_path: Path) -> None:
    done = preview(PreviewRequest("inception_v4", tmp_path / "new/sheet.png", (f"data.root={photos}", *PLAIN), images=3))
    with Image.open(done.output) as image:
        sheet = np.asarray(image)
    cells = [sheet[6 : 6 + CELL_PX, left : left + CELL_PX] for left in range(6, sheet.shape[1] - CELL_PX, CELL_PX + 6)]
    assert len(cells) == len(done.captions) == 3
    of_class = {"a": (0, 2), "b": (1, 3)}
    for cell, (name, drawn) in zip(cells, done.captions, strict=True):
        assert drawn == ""
        assert any(np.abs(cell.astype(int) - photo(number, CELL_PX, CELL_PX)).max() <= 1 for number in of_class[name])


def test_the_command_tells_what_was_drawn(photos: Path, tmp_path: Path) -> None:
    settings = sets(f"data.root={photos}", *PLAIN, "data.augment.horizontal_flip=1", "data.augment.grayscale.probability=1")
    done = inceptionctl("data", "preview", "inception_v4", *settings, "--output", tmp_path / "sheet.jpg", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {image["drawn"] for image in told["images"]} == {"grayscale, flip"}
    assert f"wrote {tmp_path / 'sheet.jpg'}, 4 images" in done.stderr
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 4 * CELL_PX


def test_an_odd_number_of_mixed_images(photos: Path, tmp_path: Path) -> None:
    settings = (f"data.root={photos}", *PLAIN, "data.augment.mix.mixup_alpha=0.2")
    done = preview(PreviewRequest("inception_v4", tmp_path / "sheet.png", settings, images=3))
    assert len(done.captions) == 3 and all("mixup" in drawn for _, drawn in done.captions)


@pytest.mark.parametrize(("key", "method"), [("mixup_alpha", "mixup"), ("cutmix_alpha", "CutMix")])
def test_captions_tell_the_mix_that_the_pixels_have(photos: Path, tmp_path: Path, key: str, method: str) -> None:
    sheets = {}
    for alpha in (0, 1):
        settings = (f"data.root={photos}", *PLAIN, f"data.augment.mix.{key}={alpha}")
        done = preview(PreviewRequest("inception_v4", tmp_path / f"{alpha}.png", settings, images=4))
        with Image.open(done.output) as image:
            sheet = np.asarray(image).astype(float)
        sheets[alpha] = [sheet[6 : 6 + CELL_PX, left : left + CELL_PX] for left in range(6, 4 * CELL_PX, CELL_PX + 6)]
    plain, mixed = sheets[0], sheets[1]
    for i, (_, drawn) in enumerate(done.captions):
        told = re.fullmatch(rf"{method} (0\.\d\d) with the {('next', 'previous')[i % 2]} \((.)\)", drawn)
        assert told, drawn
        assert told[2] == done.captions[i ^ 1][0]
        own, other = plain[i], plain[i ^ 1]
        if method == "mixup":
            share = ((mixed[i] - other) * (own - other)).sum() / ((own - other) ** 2).sum()
        else:
            share = (np.abs(mixed[i] - own).max(axis=2) <= np.abs(mixed[i] - other).max(axis=2)).mean()
        assert share == pytest.approx(float(told[1]), abs=0.02)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no picture"):
        preview(PreviewRequest("inception_v4", tmp_path / "sheet.txt"))
