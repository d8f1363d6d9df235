"""A suggested recipe: what it goes by, that it is one, and that it trains."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from inceptionctl.errors import DataError
from inceptionctl.recipe import load_recipe
from inceptionctl.stages.suggest import SuggestRequest, suggest
from tests.commands import inceptionctl, sets
from tests.data.conftest import fill, photo


def photos(root: Path, *, px: int = 120, count: int = 12, gray: bool = False) -> Path:
    for seed, name in enumerate(("cats", "dogs")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.fromarray(photo(100 * seed + number, px, px + 30))
            (image.convert("L") if gray else image).save(root / name / f"{number}.png")
    return root


def suggested(root: Path, tmp_path: Path, device: str = "cpu") -> tuple[str, object]:
    text = suggest(SuggestRequest(root, device))  # type: ignore[arg-type]
    (tmp_path / "mine.yaml").write_text(text)
    return text, load_recipe(tmp_path / "mine.yaml")


def test_class_folders_become_a_recipe_that_trains(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    done = inceptionctl("recipes", "suggest", "photos", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine.yaml").write_text(done.stdout)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.data.val_fraction == 0.2 and recipe.model.num_classes == 0 and recipe.model.input_px == 107
    assert recipe.data.augment.saturation == 0.3
    short = sets("train.max_steps=1", "train.micro_batch_size=8", "model.width=0.125")
    done = inceptionctl("train", "mine.yaml", *short, "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_it_goes_by_sizes_colors_splits_and_the_machine(tmp_path: Path) -> None:
    photos(tmp_path / "own/train", px=300, count=4, gray=True)
    photos(tmp_path / "own/val", px=300, count=2, gray=True)
    text, recipe = suggested(tmp_path / "own", tmp_path, "gpu")
    assert recipe.data.val_fraction is None and recipe.data.augment.saturation == 0.0  # type: ignore[attr-defined]
    assert (recipe.model.name, recipe.model.input_px, recipe.model.width) == ("inception_resnet_v2", 299, 1.0)  # type: ignore[attr-defined]
    assert "timm/inception_resnet_v2.tf_in1k" in text
    _, small = suggested(photos(tmp_path / "small", px=40), tmp_path)
    assert small.model.input_px == 75  # type: ignore[attr-defined]
    assert small.train.global_batch_size == 8  # type: ignore[attr-defined]


def test_odd_names_stay_one_text(tmp_path: Path) -> None:
    root = photos(tmp_path / "my: photos #1", count=4)
    text, recipe = suggested(root, tmp_path)
    assert yaml.safe_load(text)["data"]["root"] == str(root) == recipe.data.root  # type: ignore[attr-defined]


def test_data_that_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        suggest(SuggestRequest(tmp_path / "none", "cpu"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        suggest(SuggestRequest(tmp_path / "empty", "cpu"))
    fill(tmp_path / "one/only", 4, seed=0)
    with pytest.raises(DataError, match="one class"):
        suggest(SuggestRequest(tmp_path / "one", "cpu"))


def test_unreadable_images_do_not_matter(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", px=180)
    (root / "cats/broken.jpg").write_bytes(np.random.default_rng(0).bytes(2000))
    _, recipe = suggested(root, tmp_path)
    assert recipe.model.input_px == 107  # type: ignore[attr-defined]
