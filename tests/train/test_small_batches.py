"""Batches that are too small: for batch norm, of every network at its smallest images, and for the data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.dataset import open_split
from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, build_model
from inceptionctl.models.summary import count_parameters
from inceptionctl.recipe.load import default_recipe
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.batch import BatchPlan, check_batch_norm, plan_batch, too_few_images
from tests.commands import TINY, inceptionctl, refused, sets

ONE, TWO = BatchPlan(1, 1, 1), BatchPlan(1, 2, 1)


def recipe_of(name: str, *settings: str) -> Recipe:
    narrow = [f"model.name={name}", "model.width=0.125", "model.num_classes=3", *settings]
    return default_recipe(narrow)


@pytest.mark.slow
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_refused_is_what_torch_refuses(name: str, aux: bool) -> None:
    """A step forward with one image raises where the check does, and none does with the micro batch that the error names."""
    spec = MODELS[name]
    smallest = spec.aux_head_min_input_px if aux else spec.min_input_px
    if smallest is None:
        assert spec.aux_head is None
        return
    head = [f"model.aux_head={str(aux).lower()}"] if spec.aux_head is not None else []
    recipe = recipe_of(name, f"model.input_px={smallest}", *head)
    model = build_model(**recipe.model.network()).train()

    def refuses(images: int) -> bool:
        try:
            model(torch.zeros(images, 3, smallest, smallest))
        except ValueError as error:
            assert "more than 1 value per channel" in str(error)
            return True
        return False

    assert not refuses(2)
    check_batch_norm(recipe, TWO)
    if not refuses(1):
        check_batch_norm(recipe, ONE)
        return
    with pytest.raises(RecipeError) as refused:
        check_batch_norm(recipe, ONE)
    (problem,) = refused.value.problems
    assert f"{name} at {smallest} px" in problem.message
    assert problem.hint == "set train.global_batch_size to 2 and train.micro_batch_size to 2, the smallest that works"


def test_the_smallest_micro_batch_that_divides_is_named() -> None:
    recipe = recipe_of("inception_v4", "model.input_px=75", "model.aux_head=false")
    for batch, where, hint in (
        (plan_batch(7, 1, 2), "train.micro_batch_size", "set train.micro_batch_size to 7, the smallest that works"),
        (BatchPlan(4, 1, 6), "train.micro_batch_size", "set train.micro_batch_size to 2, the smallest that works"),
        (
            BatchPlan(4, 1, 1),
            "train.global_batch_size",
            "set train.global_batch_size to 8 and train.micro_batch_size to 2, the smallest that works, or use fewer ranks",
        ),
    ):
        with pytest.raises(RecipeError) as refused:
            check_batch_norm(recipe, batch)
        assert [(problem.where, problem.hint) for problem in refused.value.problems] == [(where, hint)]


def test_frozen_norms_and_larger_grids_take_single_images() -> None:
    check_batch_norm(recipe_of("inception_v4", "model.input_px=139", "model.aux_head=false"), ONE)
    stages = "[stem, blocks_a, reduction_a, blocks_b, reduction_b, blocks_c]"
    check_batch_norm(recipe_of("inception_v4", "model.input_px=75", "model.aux_head=false", f"model.freeze={stages}"), ONE)


def test_an_epoch_of_less_than_a_step() -> None:
    assert too_few_images(32, BatchPlan(4, 8, 1)) is None
    words, hint = too_few_images(13, BatchPlan(4, 8, 1)) or ("", "")
    assert words == (
        "13 training images are fewer than a batch of 32: a step takes some of them more than once, and an epoch is 0.41 of a step"
    )
    assert hint == "set train.global_batch_size to 12 or less, and scale schedule.base_lr with it"


def settings(root: Path, *more: str) -> list[str]:
    told = (f"data.root={root}", "model.num_classes=3", "model.width=0.125", *more)
    return [f"--set={one}" for one in told]


def test_dry_run_and_recipes_check_say_it(root: Path) -> None:
    count = len(open_split(root, "train"))
    few = f"{count} training images are fewer than a batch of 32"
    runner, enough = CliRunner(), "train.global_batch_size=4"
    batch = "train.global_batch_size=32"
    for command in (("train", "quickstart", "--dry-run", "--cpu-ranks=1"), ("recipes", "check", "quickstart")):
        told = runner.invoke(app, [*command, *settings(root, batch, "train.micro_batch_size=4"), "--json"])
        assert told.exit_code == 0 and f"warning: {few}" in told.stderr, told.stderr
        (warning,) = json.loads(told.stdout)["warnings"]
        assert few in warning and f"set train.global_batch_size to {count} or less" in warning
        told = runner.invoke(app, [*command, *settings(root, enough, "train.micro_batch_size=4")])
        assert told.exit_code == 0 and "fewer than a batch" not in told.stderr


def test_dry_run_counts_network_and_auxiliary_head_apart_and_refuses_single_images(root: Path) -> None:
    runner = CliRunner()
    command = ["train", "inception_v4", "--dry-run", "--json", "--cpu-ranks=1"]
    small = ("model.input_px=139", "model.aux_head=true", "train.global_batch_size=4")
    plan = json.loads(runner.invoke(app, [*command, *settings(root, *small, "train.micro_batch_size=4")]).stdout)
    recipe = recipe_of("inception_v4", "model.input_px=139", "model.aux_head=true")
    with torch.device("meta"):
        model = build_model(**recipe.model.network())
    assert plan["parameters"] + plan["auxiliary_head_parameters"] == count_parameters(model)
    assert plan["auxiliary_head_parameters"] == count_parameters(model.get_submodule("aux_head")) > 0
    refused = runner.invoke(app, [*command, *settings(root, *small, "train.micro_batch_size=1")])
    assert refused.exit_code == 2 and "aux_head.conv_1x1.norm" in refused.stderr, refused.stderr
    assert "hint: set train.micro_batch_size to 2, the smallest that works" in refused.stderr


def test_mixing_wants_even_micro_batches(tmp_path: Path) -> None:
    odd = sets(*TINY, "train.global_batch_size=6", "train.micro_batch_size=3", "data.augment.mix.mixup_alpha=0.2")
    done = inceptionctl("train", "inception_v4", *odd, "--cpu-ranks", "1", cwd=tmp_path)
    refused(done, 2, "mixes pairs of images, and a micro batch has 3", "each micro batch is even")
