"""Gradual unfreezing: what is trained in a step is a function of the step, on any number of ranks and from any checkpoint."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.recipe.load import default_recipe, dump_recipe, load_recipe, recipe_from_dict
from inceptionctl.recipe.model_section import ModelSection
from inceptionctl.recipe.variants import AdamWSection, Optim, RmsPropSection
from inceptionctl.train.optim import build_optimizer
from inceptionctl.train.step import SharedStatistics
from inceptionctl.train.unfreezing import NEVER, TrainedBlocks, unfreezing_problems
from tests.commands import environment, inceptionctl, refused, rows, sets
from tests.forked import run_ranks
from tests.train.test_lamb import WITH_TIMM

# 13 images in batches of 8: stage 1 begins with step 1, stage 2 with step 4.
NETWORK = {"name": "resnet_18", "width": 0.125, "input_px": 64, "num_classes": 3}
FREEZE = ["stem", "stage_1", "stage_2", "stage_4"]
UNFREEZE = {0.5: ["stage_4"], 2.4: ["stage_1.1", "stem"]}
KEYS = ("model.freeze=[stem, stage_1, stage_2, stage_4]", "model.unfreeze={0.5: [stage_4], 2.4: [stage_1.1, stem]}")
STAGES = {0: ("stage_3", "classifier"), 1: ("stage_4",), 4: ("stage_1.1", "stem")}
STEPS = 6
SETTINGS = sets(
    *(f"model.{key}={value}" for key, value in NETWORK.items()),
    *KEYS,
    "model.batch_norm_momentum=0.1",
    "train.global_batch_size=8",
    "train.micro_batch_size=2",
    "train.precision=fp32",
    "train.log_every_steps=1",
    f"train.max_steps={STEPS}",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=100",
    "evaluate.every_epochs=null",
    "optim.momentum=0.9",
    "schedule.base_lr=0.01",
)


# What two ranks share in steps of each stage, and when they go back as a rollback does. Each class counts as an image: 1.625 steps an epoch.
RANK = """
import json, sys
import torch
from pathlib import Path
from torch import nn
from inceptionctl.bench.turns import make_job
from inceptionctl.distributed.exit import leave
from inceptionctl.distributed.session import session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.distributed.world import world_from_environment
from inceptionctl.recipe.load import default_recipe

settings, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
world, told = world_from_environment(), []
with session(world) as joined:
    job = make_job(joined, default_recipe(settings), folder / str(world.rank), RankSignals(speaks=False))
    model = job.engine.model
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    for step in (0, 1, 4, 1):
        job.take_blocks(step)
        for norm in norms.values():
            norm.running_mean.fill_(world.rank)
        for _ in range(job.batch.accumulation):
            images = torch.full((2, 3, 64, 64), float(world.rank)) + torch.arange(2.0)[:, None, None, None]
            job.engine.backward(job.engine.forward(images).square().mean() * (1 + world.rank))
            if job.engine._engine.is_gradient_accumulation_boundary():
                sums = {name: float(w.grad.double().sum()) for name, w in model.named_parameters() if w.grad is not None}
            job.engine.step()
        for norm in norms.values():
            norm.running_mean.fill_(world.rank)
        job.statistics.average()
        told.append([[name for name, norm in norms.items() if norm.running_mean[0] == 0.5], sums])
    job.log.close()
print(json.dumps(told))
leave(0)
"""


def network() -> tuple[nn.Module, ModelSection]:
    section = ModelSection(**NETWORK, freeze=FREEZE, unfreeze=UNFREEZE)
    torch.manual_seed(0)
    return build_model(**section.network()), section


def trained(model: nn.Module) -> set[str]:
    """Units whose weights have gradients."""
    return units(name for name, weight in model.named_parameters() if weight.requires_grad)


def test_a_stage_has_gradients_and_statistics_and_the_others_have_none() -> None:
    model, section = network()
    blocks = TrainedBlocks(model, section)
    assert [blocks.stage_in(epoch) for epoch in (0, 0.49, 0.5 - 1e-12, 2.3, 2.4, 99)] == [0, 0, 1, 1, 2, 2]
    expected = {"stage_3.0", "stage_3.1", "classifier"}
    for stage, more in enumerate((set(), {"stage_4.0", "stage_4.1"}, {"stage_1.1", "stem"})):
        blocks.enter(stage)
        blocks.set_modes()
        expected |= more
        assert trained(model) == expected
        norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training}
        assert all(any(name.startswith(f"{one}.") for one in expected) for name in norms) and len(norms) >= 4
    blocks.enter(0)
    assert trained(model) == {"stage_3.0", "stage_3.1", "classifier"}  # back, as after a rollback


def leaves_what_is_to_come_alone(optim: Optim) -> None:
    model, section = network()
    blocks = TrainedBlocks(model, section)
    optimizer = build_optimizer(model, optim, 0.01)
    blocks.add_groups(optimizer, optim)
    blocks.enter(1)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for weight in model.parameters():  # as ZeRO gives them, to all that are ever trained
        weight.grad = torch.ones_like(weight) if weight.requires_grad else torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        is_trained = name.startswith(("stage_3", "stage_4", "classifier"))
        assert (weight in optimizer.state) == is_trained == (not torch.equal(weight, before[name])), name
    counts = {group.get("stage", 0): group.get("step") for group in optimizer.param_groups}
    assert counts == ({0: 1, 1: 1, 2: None} if optim.name == "lamb" else {0: None, 1: None, 2: None})


@pytest.mark.parametrize("optim", [RmsPropSection(weight_decay=0.01), AdamWSection(name="adamw", weight_decay=0.1)])
def test_what_is_to_come_has_no_state_and_does_not_move(optim: Optim) -> None:
    leaves_what_is_to_come_alone(optim)


def test_lamb_counts_no_steps_of_what_is_to_come() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: scripts/environment does it")
    code = (
        "from inceptionctl.recipe.variants import LambSection; from tests.train.test_unfreezing import leaves_what_is_to_come_alone;"
        " leaves_what_is_to_come_alone(LambSection(name='lamb', weight_decay=0.1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment() | {"PYTHONPATH": WITH_TIMM}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_statistics_join_behind_those_that_are_shared_already() -> None:
    model, section = network()
    blocks = TrainedBlocks(model, section)
    later = [blocks.first_trained_in(stage) for stage in (1, 2)]
    statistics = SharedStatistics(model, 1, blocks.first_trained_in(NEVER), later)
    place = statistics.votes.data_ptr()
    sizes = []
    for stage in (0, 1, 2):
        statistics.include(stage)
        shared = statistics.flat[: statistics._end]
        sizes.append(len(shared))
        ends = shared.data_ptr() + shared.nbytes
        inside = {
            name
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and statistics.flat.data_ptr() <= buffer.data_ptr() < ends
        }
        blocks.enter(stage)
        blocks.set_modes()
        expected = {
            f"{name}.{buffer}"
            for name, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d) and module.training
            for buffer in ("running_mean", "running_var")
        }
        assert inside == expected and shared.data_ptr() <= place < ends
    assert sizes == sorted(set(sizes)) and sizes[-1] == len(statistics.flat)


def units(names: Iterable[str]) -> set[str]:
    return {".".join(name.split(".")[: 2 if name.startswith("stage") else 1]) for name in names}


def test_ranks_share_gradients_and_statistics_of_what_is_trained_and_nothing_else(tmp_path: Path) -> None:
    settings = [*(f"model.{key}={value}" for key, value in NETWORK.items()), *KEYS, "model.num_classes=13"]
    batch = ["train.global_batch_size=8", "train.micro_batch_size=2", "train.precision=fp32"]
    ended = run_ranks(RANK, 2, json.dumps([*settings, *batch]), tmp_path, environment=environment())
    assert [rank.returncode for rank in ended] == [0, 0], ended
    told = [json.loads(rank.stdout.splitlines()[-1]) for rank in ended]
    assert told[0] == told[1]
    last = {"stage_3.0", "stage_3.1"}, {"stage_4.0", "stage_4.1"}, {"stage_1.1", "stem"}
    for (norms, gradients), stage in zip(told[0], (0, 1, 2, 1), strict=True):
        expected = set[str]().union(*last[: stage + 1])
        assert units(norms) == expected and units(gradients) == expected | {"classifier"}


def test_a_recipe_keeps_its_epochs() -> None:
    recipe = default_recipe(["model.freeze=[stem]", "model.unfreeze={1.3333333333333333: [stem]}"])
    assert recipe.model.unfreeze == {1.3333333333333333: ["stem"]}
    assert recipe_from_dict(recipe.resolved(), "again") == recipe
    assert default_recipe(["model.unfreeze={}"]).model.unfreeze is None


def test_extends_and_the_complete_recipe_keep_them_too(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model:\n  freeze: [stem, stage_1]\n  unfreeze:\n    1: [stage_1]\n    2.5: [stem]\n")
    base = load_recipe(str(tmp_path / "base.yaml"))
    assert base.model.unfreeze == {1.0: ["stage_1"], 2.5: ["stem"]}
    (tmp_path / "whole.yaml").write_text(dump_recipe(base))
    assert load_recipe(str(tmp_path / "whole.yaml")) == base
    for setting, expected in (
        ("model.unfreeze=null", None),
        ("model.unfreeze={1: [stem]}", {1.0: ["stem"], 2.5: ["stem"]}),
        ("model.unfreeze.1=[stem]", {1.0: ["stem"], 2.5: ["stem"]}),
    ):
        assert load_recipe(str(tmp_path / "base.yaml"), [setting]).model.unfreeze == expected
    assert base.model.frozen_in_words(0.0) == "stem, stage_1; stage_1 until epoch 1; stem until epoch 2.5"
    assert base.model.frozen_in_words(1.0) == "stem; stem until epoch 2.5" and base.model.frozen_in_words(2.5) == ""


def test_wrong_values_are_told_in_words(tmp_path: Path) -> None:
    for text, words in (
        ("{0: [stem]}", "'0' is not an epoch above 0"),
        ("{soon: [stem], -1: [stem]}", "'soon' is not an epoch above 0; '-1' is not"),
        ("{1: stem}", "'stem' is no list of blocks"),
        ("{1: [stem], 1.0: [stem]}", "epoch 1 is given twice"),
        ("[stem]", "is no mapping of epochs"),
    ):
        (tmp_path / "r.yaml").write_text(f"model:\n  freeze: [stem]\n  unfreeze: {text}\n")
        with pytest.raises(RecipeError) as caught:
            load_recipe(str(tmp_path / "r.yaml"))
        [problem] = caught.value.problems
        assert words in problem.message and problem.where.endswith("r.yaml:3") and "{2: [blocks_c]" in str(problem.hint)


def test_all_that_is_wrong_with_the_blocks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model:\n  name: resnet_18\n  freeze: [stem, stage_1, stagee]\n"
        "  unfreeze:\n    2: [stage_4]\n    3: [stage_1]\n    4: [stage_1.0, nose]\n    40: [stem]\ntrain: {epochs: 10}\n"
    )
    refused(
        inceptionctl("recipes", "check", "r.yaml", "--no-data", cwd=tmp_path),
        2,
        "r.yaml:3: model.freeze: the network has no block 'stagee'",
        "r.yaml:4: model.unfreeze: stage_4 is not frozen when epoch 2 begins",
        "r.yaml:4: model.unfreeze: the network has no block 'nose'",
        "r.yaml:4: model.unfreeze: stage_1.0 is not frozen when epoch 4 begins",
        "r.yaml:4: model.unfreeze: epoch 40 is not below train.epochs 10: stem would never be trained",
    )


def test_a_block_of_a_frozen_part_may_go_before_the_part() -> None:
    section = ModelSection(**NETWORK, freeze=["stage_1"], unfreeze={1.0: ["stage_1.1"], 2.0: ["stage_1"]})
    assert unfreezing_problems(build_model(**section.network()), section) == []


def test_other_programs_names_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {unfreeze_backbone_at_epoch: 5}\n")
    refused(
        inceptionctl("recipes", "check", "r.yaml", "--no-data", cwd=tmp_path),
        2,
        "it is `model.unfreeze` here",
        "{2: [blocks_c]",
    )


def train(root: Path, folder: Path, output: str, *more: str, ranks: int = 2, resume: Path | str = "auto") -> str:
    words = ("train", "inception_v4", *SETTINGS, *sets(f"data.root={root}", *more))
    done = inceptionctl(*words, "--cpu-ranks", str(ranks), "--output", output, "--resume", resume, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr


def contents(run: Path, step: int = STEPS) -> dict[str, Tensor]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file}:{k}": v for file in ("model", "ema", "optimizer") for k, v in load_file(folder / f"{file}.safetensors").items()
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two ranks that nothing interrupts, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "run", train(root, folder, "run")


def moved(run: Path, step: int) -> tuple[set[str], set[str]]:
    """The units whose weights, and those whose statistics a step has changed."""
    before, after = contents(run, step), contents(run, step + 1)
    names = [name for name in before if name.startswith("model:") and not torch.equal(before[name], after[name])]
    of_weights, of_statistics = ([name for name in names if ("running" in name) == statistics] for statistics in (False, True))
    return tuple(
        units(name.removeprefix("model:") for name in part if "num_batches" not in name) for part in (of_weights, of_statistics)
    )


def test_blocks_are_trained_from_their_epoch_on_and_it_is_said(whole: tuple[Path, str]) -> None:
    run, said = whole
    last = {"stage_3.0", "stage_3.1", "classifier", "stage_4.0", "stage_4.1"}
    for step, expected in ((3, last), (4, last | {"stage_1.1", "stem"})):
        assert moved(run, step) == (expected, expected - {"classifier"})
    keys = {name for name in contents(run, 4) if name.startswith("optimizer:")}
    assert keys and all(name.removeprefix("optimizer:").startswith(("stage_3", "stage_4", "classifier")) for name in keys)
    assert "frozen: stem, stage_1, stage_2, stage_4; stage_4 until epoch 0.5; stage_1.1, stem until epoch 2.4" in said
    assert "epoch 0.62, step 1: unfreezes stage_4" in said and "epoch 2.46, step 4: unfreezes stage_1.1, stem" in said
    assert [row["frozen_blocks"] for row in rows(run)] == [4, 3, 3, 3, 2, 2]
    shown = inceptionctl("watch", run, "--once")
    assert "stage_1, stage_2" in shown.stdout, shown.stdout


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_is_the_same_bit_for_bit(whole: tuple[Path, str], root: Path, tmp_path: Path, step: int) -> None:
    """Before, at and after an epoch of model.unfreeze."""
    run, _ = whole
    said = train(root, tmp_path, "again", resume=run / "checkpoints" / f"step-{step:08d}")
    assert ("unfreezes stage_1.1, stem" in said) == (step < 5)
    assert same(contents(tmp_path / "again"), contents(run))


def test_partitioned_state_and_other_ranks_train_the_same(whole: tuple[Path, str], root: Path, tmp_path: Path) -> None:
    run, _ = whole
    at = run / "checkpoints" / "step-00000003"
    train(root, tmp_path, "parts", "train.zero_stage=1", resume=at)
    train(root, tmp_path, "again", "train.zero_stage=1", resume=tmp_path / "parts/checkpoints/step-00000005")
    train(root, tmp_path, "one", ranks=1, resume=at)
    expected = contents(run)
    for name in ("parts", "one"):
        found = contents(tmp_path / name)
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            # One rank takes micro batches into its statistics one by one, two take the mean of theirs.
            if name == "one" and ("running" in key or not value.is_floating_point()):
                continue
            torch.testing.assert_close(
                found[key].float(), value.float(), rtol=5e-3, atol=1e-4, msg=lambda told, k=key: f"{k}: {told}"
            )
        still = {key for key in expected if "stage_2" in key or "stage_1.0" in key}
        assert all(torch.equal(found[key], contents(run, 1)[key]) for key in still if "optimizer" not in key)
    assert same(contents(tmp_path / "again"), contents(tmp_path / "parts"))
