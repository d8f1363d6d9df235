"""A suggested recipe: what it goes by, that it is one, and that it trains."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from inceptionctl.errors import DataError
from inceptionctl.recipe import load_recipe
from inceptionctl.run import Run
from inceptionctl.stages.suggest import SuggestRequest, suggest
from inceptionctl.train.inheritance import inherit
from tests.commands import TINY, inceptionctl, sets
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


def test_a_fine_tuning_has_the_bundled_recipes_rates_and_what_the_weights_expect(tmp_path: Path) -> None:
    fill(tmp_path / "others/train/a", 4, seed=0)
    fill(tmp_path / "others/train/b", 4, seed=1)
    shutil.copytree(tmp_path / "others/train", tmp_path / "others/val")
    first = sets("model.name=resnet_18", "model.num_classes=2", "data.mean=[0.1,0.2,0.3]", f"data.root={tmp_path / 'others'}")
    done = inceptionctl("train", "quickstart", *first, *sets(*TINY, "train.max_steps=1"), "--output", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = photos(tmp_path / "photos", count=30)
    text = suggest(SuggestRequest(root, "cpu", str(tmp_path / "first")))
    (tmp_path / "mine.yaml").write_text(text)
    mine, bundled = load_recipe(tmp_path / "mine.yaml"), load_recipe("fine_tune")
    assert mine.model.name == "resnet_18" and mine.model.init_from == str(tmp_path / "first")
    for key in ("lr_decay_by_block", "head_lr_factor", "name", "nesterov", "weight_decay"):
        assert getattr(mine.optim, key) == getattr(bundled.optim, key)
    share = mine.train.global_batch_size / bundled.train.global_batch_size
    assert mine.schedule.base_lr == pytest.approx(bundled.schedule.base_lr * share)
    assert (mine.train.epochs, mine.train.stop_when) == (bundled.train.epochs, bundled.train.stop_when)
    assert inherit(mine).data.mean == (0.1, 0.2, 0.3)
    assert not mine.evaluate.model_fields_set & {"keep_aspect", "interpolation", "central_fraction"}


def test_the_bundled_fine_tuning_trains_on_any_folder(tmp_path: Path) -> None:
    photos(tmp_path / "photos", count=40)
    small = sets("model.init_from=null", "model.name=resnet_18", "train.max_steps=1", *TINY)
    done = inceptionctl("train", "fine_tune", *small, "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = Run(tmp_path / "run").recipe()
    assert (recipe.model.num_classes, recipe.data.val_fraction) == (2, 0.2)
