"""A small run directory with real files: a narrow Inception-v4 whose logits differ between images, and JPEGs to try it on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from inceptionctl.models import build_model
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import Run, create_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.optim import WeightAverage, build_optimizer

CLASSES = ("apple", "bear", "cat", "dog", "elephant", "fox")
INPUT_PX = 75
BATCH_NORM_EPS = 0.03  # not the default, so that whoever forgets it is found out
SIZES = ((120, 90), (80, 110), (100, 100), (131, 77))


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are faster so, and much faster on a busy machine."""
    before, set_num_threads = torch.get_num_threads(), torch.set_num_threads
    set_num_threads(1)
    yield
    set_num_threads(before)


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Smooth coloured blotches: the decoders of two libraries agree on them, and so do two ways of resizing."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_data(root: Path, num_val: int = 4) -> Path:
    """root/train with one image a class and root/val with `num_val`; JPEGs with full colour resolution."""
    for split, count in (("train", 1), ("val", num_val)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                path = root / split / name / f"{i}.jpg"
                photo(100 * label + i + (50 if split == "train" else 0), *SIZES[(label + i) % 4]).save(
                    path, quality=95, subsampling=0
                )
    return root


def make_model() -> nn.Module:
    """As after a training: the statistics fit the activations, and the logits tell images apart."""
    torch.manual_seed(0)
    model = build_model(
        "inception_v4",
        num_classes=len(CLASSES),
        width=0.125,
        dropout=0.0,
        batch_norm_momentum=1.0,
        batch_norm_eps=BATCH_NORM_EPS,
    )
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(1.0)  # at 0 a random network of this depth is chaotic: it makes 1e-2 of a rounding error
        arrays = [np.asarray(photo(1000 + i, INPUT_PX, INPUT_PX), dtype=np.float32) / 127.5 - 1.0 for i in range(48)]
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        model(images)  # with a momentum of 1 the statistics are this batch's
        model.eval()
        classifier, logits = model.get_submodule("classifier"), model(images)
        classifier.weight.mul_(0.5 / logits.std(0)[:, None])
        classifier.bias.sub_(model(images).mean(0))
    return model


def make_run(path: Path, data: Path, best: int | None = None) -> Run:
    """Checkpoints at steps 5 and 10 (the newest); none is the best unless `best` names its step.

    The raw weights differ from the averages, step 5 from step 10.
    """
    recipe = recipe_from_dict(
        {
            "model": {"num_classes": len(CLASSES), "input_px": INPUT_PX, "width": 0.125, "batch_norm_eps": BATCH_NORM_EPS},
            "data": {"root": str(data)},
            "train": {"epochs": 1, "precision": "fp32"},
            "evaluate": {"batch_size": 10},
        },
        "test",
    )
    run = create_run(path, recipe)
    model = make_model()
    average = WeightAverage(model, 0.99)
    optimizer = build_optimizer(model, recipe.optim, 0.01)
    with torch.no_grad():
        model.get_submodule("classifier").bias.add_(torch.arange(len(CLASSES)) * 0.5)
    for step in (5, 10):
        with torch.no_grad():
            average.model.get_submodule("classifier").bias[0] += 0.25
        progress = Progress(step=step, total_steps=10, classes=list(CLASSES), recipe=recipe.resolved())
        saved = save_checkpoint(run.checkpoints, model, average, optimizer, progress)
        if step == best:
            files.point(run.checkpoints, "best", saved)
    return run


def damage(file: Path) -> None:
    """Turn one bit in the middle of a file."""
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 1]))
