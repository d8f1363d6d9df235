"""`predict --explain`: a network that has learnt what a patch means, and maps that point at the patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.explain import grad_cam, overlaid
from inceptionctl.evaluate.trained import empty_network
from inceptionctl.models import build_model
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import Run, create_run
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.optim import WeightAverage, build_optimizer
from tests.commands import inceptionctl

PX = 128
COLOURS = {"blue": (40, 60, 250), "green": (30, 240, 60)}
NETWORK = {"name": "resnet_18", "width": 0.125, "num_classes": 2, "batch_norm_momentum": 0.2, "input_px": PX}


def picture(label: int, right: bool, rng: np.random.Generator) -> np.ndarray:
    """Dim noise with a bright patch, whose colour is the class, in one half: uint8 [PX, PX, 3]."""
    pixels = rng.integers(40, 90, (PX, PX, 3), dtype=np.uint8)
    top, left = rng.integers(4, PX - 36), rng.integers(4, 20) + (PX // 2 + 8 if right else 0)
    pixels[top : top + 32, left : left + 32] = list(COLOURS.values())[label]
    return pixels


def batch(size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    labels, right = rng.integers(0, 2, size), rng.integers(0, 2, size).astype(bool)
    pixels = np.stack([picture(int(label), bool(side), rng) for label, side in zip(labels, right, strict=True)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1.0, torch.from_numpy(labels), right


@pytest.fixture(scope="module")
def taught() -> nn.Module:
    torch.manual_seed(0)
    model, rng = build_model(**NETWORK, dropout=0.0).train(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        images, labels, _ = batch(16, rng)
        targets = nn.functional.one_hot(labels, 2).float()
        # Images of neither: else one class could be known by the other's absence, for which the whole image speaks.
        images[:5], targets[:5] = torch.from_numpy(rng.uniform(-0.7, -0.3, (5, 3, PX, PX))), 0.0
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(images), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def run_of_patches(taught: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Run:
    sections = {"model": {**NETWORK}, "data": {"root": "nowhere"}, "train": {"epochs": 1, "precision": "fp32"}}
    recipe = recipe_from_dict({**sections, "evaluate": {"central_fraction": 1.0}}, "test")
    run = create_run(tmp_path_factory.mktemp("runs") / "patches", recipe)
    average = WeightAverage(taught, 0.99)
    progress = Progress(step=4, total_steps=4, classes=list(COLOURS), recipe=recipe.resolved())
    save_checkpoint(run.checkpoints, taught, average, build_optimizer(taught, recipe.optim, 0.01), progress)
    return run


def test_the_map_is_highest_in_the_half_of_the_patch(taught: nn.Module) -> None:
    images, labels, right = batch(32, np.random.default_rng(1))
    maps = grad_cam(taught, images)
    assert (maps.classes == labels).float().mean() > 0.9
    assert maps.values.shape == (32, PX, PX) and maps.values.amin() >= 0.0
    assert torch.equal(maps.values.amax(dim=(1, 2)), torch.ones(32))
    halves = maps.values.flatten(1).argmax(1) % PX >= PX // 2
    sure = (maps.classes == labels).numpy()
    assert (halves.numpy() == right)[sure].mean() == 1.0
    with torch.no_grad():
        assert torch.allclose(maps.probabilities, taught(images).softmax(1).amax(1), atol=1e-5)
    assert not taught.pool._forward_pre_hooks  # it is left as it was


def test_behind_a_mean_it_is_the_classes_own_weights(taught: nn.Module) -> None:
    """Of a network that ends in mean and linear layer Grad-CAM is CAM (Zhou et al. 2016), the paper's section 3.1."""
    images, _, _ = batch(4, np.random.default_rng(2))
    with torch.no_grad():
        grid = taught.forward_features(images)
    maps = grad_cam(taught, images)
    cam = torch.einsum("nchw,nc->nhw", grid, taught.classifier.weight[maps.classes]).relu()
    large = nn.functional.interpolate(cam[:, None], (PX, PX), mode="bilinear")[:, 0]
    assert torch.allclose(maps.values, large / large.amax(dim=(1, 2), keepdim=True), atol=1e-4)


def test_the_command_draws_over_what_the_network_saw(run_of_patches: Run, tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(3), tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    sides = {"deep/a.png": False, "b.png": True, "größe.png": False}
    pixels = {name: picture(1, right, rng) for name, right in sides.items()}
    for name, values in pixels.items():
        Image.fromarray(values).save(folder / name)
    (folder / "bad.png").write_text("no image")
    words = ["predict", str(run_of_patches.path), str(folder), "--explain", str(tmp_path / "maps")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 3 and "cannot decode" in answer.stderr, answer.output
    assert sorted(str(file.relative_to(tmp_path / "maps")) for file in (tmp_path / "maps").rglob("*.*")) == sorted(
        f"{name}.png" for name in sides
    )
    for name, right in sides.items():
        with Image.open(tmp_path / "maps" / f"{name}.png") as drawn:
            assert drawn.size == (PX, PX) and drawn.text["class"] == "green" and 0.5 < float(drawn.text["probability"]) <= 1.0
            changed = np.abs(np.asarray(drawn).astype(int) - pixels[name]).sum(2)
        middle = (changed[:, : PX // 2].mean() < changed[:, PX // 2 :].mean()) == right
        assert middle, name


def test_ranks_share_the_pictures(run_of_patches: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(picture(0, False, np.random.default_rng(number))).save(folder / f"{number}.png")
    words = ("predict", run_of_patches.path, folder, "--output", tmp_path / "a.csv", "--explain", tmp_path / "maps")
    done = inceptionctl(*words, "--cpu-ranks", "2")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5 and len((tmp_path / "a.csv").read_text().splitlines()) == 6


def test_what_cannot_be_explained(run_of_patches: Run, tmp_path: Path) -> None:
    Image.fromarray(picture(0, False, np.random.default_rng(0))).save(tmp_path / "a.png")
    export = tmp_path / "export"
    words = ["export", str(run_of_patches.path), "--format", "safetensors", "--output", str(export)]
    assert CliRunner().invoke(app, words).exit_code == 0
    (tmp_path / "file").write_text("")
    for source, words, code, said in (
        (export, ["--explain", str(tmp_path / "maps")], 2, "is an export"),
        (export / "model.safetensors", ["--explain", str(tmp_path / "maps"), "--output", "a.csv"], 2, "is an export"),
        (run_of_patches.path, ["--explain", str(tmp_path / "file")], 3, "is a file"),
        (run_of_patches.path, ["--explain", "maps", "--submission", "a.txt"], 2, "does not apply to --submission"),
    ):
        answer = CliRunner().invoke(app, ["predict", str(source), str(tmp_path / "a.png"), *words])
        assert answer.exit_code == code and said in answer.stderr, answer.output
    assert not (tmp_path / "maps").exists()
    with pytest.raises(RecipeError, match="global pool"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)), torch.zeros(1, 3, 4, 4))


def test_no_colour_where_nothing_speaks() -> None:
    pixels = np.full((2, 2, 3), 100.0, dtype=np.float32)
    drawn = overlaid(pixels, np.array([[0.0, 1.0], [0.5, 0.0]], dtype=np.float32))
    assert (drawn[0, 0] == 100).all() and (drawn[1, 1] == 100).all()
    assert (drawn[0, 1] != 100).any() and np.abs(drawn[0, 1].astype(int) - 100).sum() > 60


def test_the_same_with_an_auxiliary_head() -> None:
    model = empty_network({"name": "inception_v3", "num_classes": 3, "width": 0.125, "aux_head": True, "input_px": 107})
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(0)) if value.is_floating_point() else value)
    assert grad_cam(model, torch.rand(2, 3, 107, 107)).values.shape == (2, 107, 107)
