"""timm's step beside ours: it computes what our optimizer and loss do, on networks that cost the same, and says what it is."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from inceptionctl.bench.figures import Figure
from inceptionctl.bench.timm_step import TimmStep, check_comparable, differences, flags, ratios
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.models import build_model, timm_network
from inceptionctl.models.summary import count_parameters, multiply_adds
from inceptionctl.recipe.load import load_recipe
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.optim import build_optimizer
from inceptionctl.train.step import training_loss
from inceptionctl.weights.counterparts import timm_network_as_large
from tests.commands import inceptionctl, refused, sets

WITH_TIMM = str(Path(__file__).resolve().parents[1] / "with_timm")
RESNET = ("model.name=resnet_18", "model.input_px=64", "model.num_classes=5", "model.dropout=0", "schedule.base_lr=0.01")


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    import tests.with_timm.sitecustomize  # noqa: F401

    module: ModuleType = pytest.importorskip("timm", reason="timm is not installed: scripts/environment does it")
    return module


def recipe_with(*settings: str) -> Recipe:
    return load_recipe("inception_v4", [*RESNET, *settings])


def step_of(recipe: Recipe, backend: str | None = None, passes: int = 1, ranks: int = 1) -> TimmStep:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, torch.tensor([0, 4, 2, 2]))
    world = World(0, ranks, 0, ranks, "localhost", 0)
    job = SimpleNamespace(recipe=recipe, device=torch.device("cpu"), precision="fp32", world=world)
    return TimmStep(job, batch, passes=passes, backend=backend)


def test_two_steps_are_those_of_our_own_parts(timm: ModuleType) -> None:
    recipe = recipe_with("optim.clip_global_norm=0.5")
    theirs = step_of(recipe, passes=2)
    ours = build_model("timm/resnet18", num_classes=5, dropout=0.0, input_px=64)
    ours.load_state_dict(theirs.network.state_dict())
    first = ours.conv1.weight.detach().clone()
    optimizer = build_optimizer(ours, recipe.optim, recipe.schedule.base_lr)
    weights = []
    for _ in range(2):
        optimizer.zero_grad()
        loss, _ = training_loss(ours(theirs._images), theirs._labels, label_smoothing=0.1, aux_loss_weight=0.4)
        loss.backward()
        assert nn.utils.clip_grad_norm_(ours.parameters(), 0.5) > 0.5
        optimizer.step()
        weights.append(ours.conv1.weight.detach().clone())
    theirs.round()
    assert theirs.done == 2 and not torch.equal(weights[1], first)
    torch.testing.assert_close(theirs.network.conv1.weight.detach(), weights[1], rtol=1e-4, atol=1e-6)
    # The average begins with the weights after the first step.
    average = torch.lerp(weights[0], weights[1], 1 - recipe.train.ema_decay)
    torch.testing.assert_close(theirs.average.module.conv1.weight, average, rtol=1e-4, atol=1e-6)


def test_a_compiled_network_takes_the_same_steps(timm: ModuleType) -> None:
    plain, compiled = step_of(recipe_with()), step_of(recipe_with(), "eager")
    captured = torch._dynamo.utils.counters["stats"]["calls_captured"]
    for step in (plain, compiled):
        step.round()
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > captured
    torch.testing.assert_close(compiled.network.fc.weight, plain.network.fc.weight)
    assert compiled.losses == pytest.approx(plain.losses)


def test_several_ranks_have_their_gradients_averaged_by_ddp(timm: ModuleType) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        alone, shared = step_of(recipe_with()), step_of(recipe_with("train.log_every_steps=1"), ranks=2)
        assert isinstance(shared._model, nn.parallel.DistributedDataParallel) and shared._model.module is shared.network
        for step in (alone, shared):
            step.round()
        # A group of one rank: its mean is what it is alone.
        torch.testing.assert_close(shared.network.fc.weight, alone.network.fc.weight)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        (("optim.epsilon=0.5",), "RMSpropTF", {"eps": 0.5, "alpha": 0.9, "momentum": 0.9}),
        (("optim.name=sgd", "optim.nesterov=true"), "SGD", {"nesterov": True}),
        (("optim.name=sgd", "optim.nesterov=false"), "SGD", {"nesterov": False}),
        (("optim.name=adamw", "optim.betas=[0.8, 0.9]"), "AdamW", {"betas": (0.8, 0.9)}),
        (("optim.name=lamb",), "Lamb", {"max_grad_norm": None}),
    ],
)
def test_timm_has_the_recipes_optimizer(timm: ModuleType, settings: tuple[str, ...], kind: str, expected: dict) -> None:
    recipe = recipe_with(*settings, "optim.weight_decay=0.001")
    optimizer = step_of(recipe).optimizer
    assert type(optimizer).__name__ == kind
    assert {key: optimizer.defaults[key] for key in expected} == expected
    # Weight decay on what has several dimensions alone, as ours.
    decays = {len(weight.shape) > 1: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert decays == {True: 0.001, False: 0.0}
    assert flags(recipe, bf16=True, compiled=False, ranks=2).count("--opt ") == 1


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2_tf_slim", "resnet_50_v1_5"])
def test_networks_that_are_compared_cost_the_same(timm: ModuleType, name: str) -> None:
    with torch.device("meta"):
        ours = build_model(name, num_classes=10, aux_head=False if "inception" in name else None)
    theirs = timm.create_model(timm_network_as_large(name), num_classes=10)
    assert multiply_adds(ours, 299) == multiply_adds(theirs, 299)
    assert count_parameters(ours) == count_parameters(theirs)


def test_networks_that_timm_has_nothing_for_are_refused(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    check_comparable(recipe_with())
    check_comparable(recipe_with("model.name=timm/resnet34"))
    with pytest.raises(RecipeError, match="costs what bn_inception does") as caught:
        check_comparable(recipe_with("model.name=bn_inception"))
    assert "inception_v4, " in str(caught.value.hint) and "timm/NAME" in str(caught.value.hint)
    with pytest.raises(RecipeError, match="halve the grid") as caught:
        check_comparable(recipe_with("model.name=resnet_50"))
    assert "measure resnet_50_v1_5" in str(caught.value.hint)
    for setting in ("model.width=0.5", "model.residual_unit=bottleneck", 'model.freeze=["stem"]'):
        with pytest.raises(RecipeError, match=setting.partition("=")[0]):
            check_comparable(recipe_with(setting))
    monkeypatch.setattr(timm_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="--ways timm needs timm, which is not installed") as fault:
        check_comparable(recipe_with())
    assert fault.value.hint == "pip install 'inceptionctl[timm]'"


def test_what_the_two_do_otherwise_is_said() -> None:
    def said(*settings: str) -> str:
        recipe = load_recipe("inception_v4", [*settings, "model.num_classes=5", "model.width=0.125"])
        model = build_model(**recipe.model.network())
        parameters = count_parameters(build_model(**{**recipe.model.network(), "aux_head": False}))
        job = SimpleNamespace(recipe=recipe, engine=SimpleNamespace(model=model))
        return "\n".join(differences(job, parameters))

    assert "auxiliary" not in said() and "ZeRO" not in said() and "channels_last" not in said()
    assert "reads them in each step (optim.clip_agc" in said() and "a global norm of 1e+06, which is never reached" in said()
    assert "clip" not in said("optim.clip_global_norm=2.0") and "clip" not in said("optim.clip_global_norm=0")
    assert "inceptionctl clips nothing; timm clips at" in said("optim.clip_agc=0")
    assert "auxiliary head" in said("model.name=inception_v3")
    assert "ZeRO" in said("train.zero_stage=1")
    assert "channels_last" in said("train.channels_last=false")


def test_the_best_of_timms_is_what_it_is_compared_with() -> None:
    rates = {"inceptionctl": (30.0, 33.0), "timm": (20.0, 22.0), "timm, compiled": (25.0, 22.0)}
    figures = [Figure(name, unit, values) for name, values in rates.items() for unit in ("s/step", "CPU s/step", "images/s")]
    found = {(figure.name, figure.unit): figure.values for figure in ratios(figures, "inceptionctl")}
    assert found["inceptionctl over timm's best (timm, compiled)", "ratio of images/s"] == pytest.approx([1.2, 1.5])
    assert found["inceptionctl / timm", "ratio of s/step"] == pytest.approx([1.5, 1.5])
    alone = [figure for figure in figures if "compiled" not in figure.name]
    assert [figure.name for figure in ratios(alone, "inceptionctl")] == ["inceptionctl / timm"] * 3
    assert ratios(alone[:3], "inceptionctl") == []


@pytest.mark.slow
def test_two_ranks_beside_timm_under_ddp_with_a_profile(timm: ModuleType, tmp_path: Path) -> None:
    arguments = (
        "--micro-batch-size",
        "2",
        "--repeats",
        "1",
        "--cpu-ranks",
        "2",
        "--ways",
        "timm",
        "--profile",
        tmp_path / "a.json",
    )
    settings = sets(*RESNET, "train.log_every_steps=1")
    done = inceptionctl("bench", "step", "inception_v4", *settings, *arguments, "--json", PYTHONPATH=WITH_TIMM)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rates = {figure["name"]: figure["median"] for figure in result["figures"] if figure["unit"] == "images/s"}
    assert rates.keys() == {"inceptionctl", "torch DDP", "timm"} and min(rates.values()) > 0
    assert result["timm"]["network"] == "resnet18" and result["timm"]["multiply_adds"] == result["multiply_adds"]
    assert result["timm"]["version"] == result["versions"]["timm"] == timm.__version__
    assert "--opt rmsproptf" in result["timm"]["flags"] and "--torchcompile" not in result["timm"]["flags"]
    groups = {cost["name"]: cost["seconds"] for cost in result["profile"]["groups"]}
    assert groups["gradients: kept, averaged over ranks"] > 0
    assert groups["batch-norm statistics and votes over ranks"] > 0
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"]


def test_the_command_refuses_what_cannot_be_compared() -> None:
    refused(
        inceptionctl("bench", "step", *sets("model.name=bn_inception"), "--ways", "timm"), 2, "costs what bn_inception does"
    )
