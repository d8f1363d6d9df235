"""Full networks whose logits differ between images and tell a wrong tensor: as after a training, but made in seconds."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inceptionctl.evaluate.inputs import folder_of, load_images
from inceptionctl.models import find_spec
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.optim import WeightAverage, build_optimizer
from tests.defaults import preparation
from tests.evaluate.making import photo

NUM_CLASSES = 7
CLASSES = [f"sign_{i}" for i in range(NUM_CLASSES)]
# A last grid of 2 x 2: smaller, and a wrong padding or order of kernels could hide in its 1 x 1.
INPUT_PX = int(os.environ.get("INCEPTIONCTL_TEST_INPUT_PX", "107"))
# A folder of photographs to use in place of generated ones: any tree with .jpg files.
PHOTOGRAPHS = "INCEPTIONCTL_TEST_PHOTOGRAPHS"


def jpegs(folder: Path, count: int) -> list[Path]:
    """JPEG files: photographs where there are any, else blotches of different grain."""
    if PHOTOGRAPHS in os.environ:
        found = sorted([*Path(os.environ[PHOTOGRAPHS]).rglob("*.jpg"), *Path(os.environ[PHOTOGRAPHS]).rglob("*.JPG")])
        return [found[i * len(found) // count] for i in range(count)]
    for i in range(count):
        buffer = io.BytesIO()
        photo(i, 120 + i, 100).save(buffer, "JPEG", quality=95)
        (folder / f"{i}.jpg").write_bytes(buffer.getvalue())
    return [folder / f"{i}.jpg" for i in range(count)]


def decoded(paths: list[Path], px: int = INPUT_PX) -> Tensor:
    """float32 [N, 3, px, px] in [-1, 1], as evaluation prepares them."""
    batches = load_images(folder_of(paths), preparation(px), batch_size=len(paths), num_threads=1)
    return torch.cat(list(batches)).contiguous()


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """Draw every parameter, let the statistics fit the images, and scale the classifier so that logits differ by about one."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.8, 1.2, generator=generator)
        norm.bias.uniform_(0.8, 1.2, generator=generator)  # near 0 a random network of this depth makes 1e-2 of a rounding
        norm.momentum = 1.0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0.0, 0.1, generator=generator)
    model.train()
    model(images)
    model.eval()
    (classifier,) = (module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "ux" not in name)
    classifier.weight.normal_(0.0, 0.05, generator=generator)
    classifier.bias.zero_()
    logits = model(images)
    classifier.weight.mul_((1.0 / logits.std(0))[:, None])
    classifier.bias.sub_(model(images).mean(0)).add_(torch.arange(len(classifier.bias)) * 0.25)
    return model.requires_grad_(True)


def spread(logits: Tensor) -> float:
    """By how much a logit differs between images at least."""
    return float((logits.amax(0) - logits.amin(0)).min())


def save_as_checkpoint(folder: Path, model: nn.Module, name: str, **section: object) -> Path:
    """A checkpoint folder as training writes it."""
    recipe = recipe_from_dict({"model": {"name": name, "num_classes": NUM_CLASSES, "input_px": INPUT_PX, **section}}, "test")
    average = WeightAverage(model, 0.99)
    optimizer = build_optimizer(model, recipe.optim, 0.01)
    progress = Progress(step=3, total_steps=3, classes=CLASSES, recipe=recipe.resolved())
    folder.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(folder, model, average, optimizer, progress)


def noise(px: int, count: int) -> Tensor:
    """Images of plain noise in [-1, 1]."""
    return torch.from_numpy(np.random.default_rng(0).uniform(-1.0, 1.0, (count, 3, px, px)).astype(np.float32))


def default_px(name: str) -> int:
    """Side of the images that a network is made for."""
    return find_spec(name).default_input_px
