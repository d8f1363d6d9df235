"""What a fine-tuning takes over from the weights that it starts from, and what it says of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.recipe import Recipe, load_recipe
from inceptionctl.recipe.load import default_recipe, dump_recipe, recipe_from_dict
from inceptionctl.run import create_run
from inceptionctl.train.inheritance import as_expected, find_weights, inherit
from inceptionctl.train.start import decide_start

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
THEIRS: dict[str, Any] = {
    "model": {"name": "resnet_18", "input_px": 224, "batch_norm_eps": 1e-5},
    "data": {**IMAGENET, "exif_orientation": False},
    "evaluate": {"keep_aspect": True, "interpolation": "bicubic", "antialias": True, "central_fraction": 0.9},
}


def checkpoint(folder: Path, recipe: Recipe) -> Path:
    """As much of a checkpoint as is asked for before ranks are started."""
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"recipe": recipe.with_classes().resolved()}))
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "old", recipe_from_dict(THEIRS, "test"))


def fine_tune(old: Path, *settings: str) -> Recipe:
    return default_recipe(["model.name=resnet_18", f"model.init_from={old}", *settings])


def test_what_the_recipe_does_not_say_is_inherited(old: Path) -> None:
    found = inherit(fine_tune(old))
    for section in ("model", "data", "evaluate"):
        told = getattr(found, section).model_dump(mode="json")
        assert {key: told[key] for key in THEIRS[section]} == THEIRS[section]
    (line,) = as_expected(found, find_weights(old, verified=False).expects)
    assert line.startswith("as these weights expect: model.input_px 224, model.batch_norm_eps 1e-05")
    assert "data.mean [0.485, 0.456, 0.406]" in line and 'evaluate.interpolation "bicubic"' in line


def test_what_it_says_stays_with_a_warning_that_names_both(old: Path) -> None:
    found = inherit(fine_tune(old, "data.mean=[0.5, 0.5, 0.5]", "evaluate.central_fraction=1.0", "model.input_px=128"))
    assert (found.data.mean, found.data.std) == ((0.5, 0.5, 0.5), tuple(IMAGENET["std"]))
    assert (found.evaluate.central_fraction, found.model.input_px) == (1.0, 128)
    _, warning = as_expected(found, find_weights(old, verified=False).expects)
    assert warning == (
        "warning: images are not prepared as these weights expect: data.mean is [0.5, 0.5, 0.5], the weights expect"
        " [0.485, 0.456, 0.406]; evaluate.central_fraction is 1.0, the weights expect 0.9"
    )


def test_a_network_that_computes_something_else_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"batch_norm_eps is 0.001, but the weights of .* were trained with 1e-05") as caught:
        inherit(fine_tune(old, "model.batch_norm_eps=1e-3"))
    assert caught.value.hint == "leave model.batch_norm_eps out: it is taken from the weights"
    scaled = recipe_from_dict({"model": {"name": "inception_resnet_v1", "residual_scale": 0.3}}, "test")
    scaled_weights = checkpoint(tmp_path / "scaled", scaled)
    names = ["model.name=inception_resnet_v1", f"model.init_from={scaled_weights}"]
    assert inherit(default_recipe(names)).model.residual_scale == 0.3
    with pytest.raises(RecipeError, match=r"residual_scale is null, but .* with 0.3"):
        inherit(default_recipe([*names, "model.residual_scale=null"]))
    own = checkpoint(tmp_path / "own", recipe_from_dict({"model": {"name": "inception_resnet_v1"}}, "test"))
    same = ["model.name=inception_resnet_v1", f"model.init_from={own}", "model.residual_scale=[0.17, 0.10, 0.20]"]
    assert inherit(default_recipe(same)).model.residual_scale == (0.17, 0.10, 0.20)


def test_an_export_tells_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    config = {"architecture": "resnet_18", "num_classes": 7, **IMAGENET, "batch_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = inherit(fine_tune(tmp_path))
    assert (list(found.data.mean), found.model.batch_norm_eps, found.model.input_px) == (IMAGENET["mean"], 1e-5, 299)


def test_other_recipes_stay_as_they_are(old: Path, tmp_path: Path) -> None:
    for recipe in (
        default_recipe(),
        fine_tune(tmp_path / "nowhere"),  # refused where it is read
        default_recipe([f"model.init_from={old}"]),  # of another network: the same
    ):
        assert inherit(recipe) == recipe


def test_the_run_keeps_it_whatever_becomes_of_the_weights(old: Path, tmp_path: Path) -> None:
    recipe = inherit(fine_tune(old), tmp_path / "new")
    run = create_run(tmp_path / "new", recipe)
    assert load_recipe(str(run.recipe_file)).data.mean == tuple(IMAGENET["mean"])
    old.rename(tmp_path / "gone")
    again = inherit(fine_tune(old), run.path)
    assert again == recipe and dump_recipe(again) == run.recipe_file.read_text()
    assert decide_start(again, run.path, "auto").run == run
    # The ranks get the run's own recipe, which says everything.
    assert inherit(load_recipe(str(run.recipe_file)), run.path) == recipe
