"""`bench checkpoint`: how long a save blocks training, written in the background and in the foreground, beside a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from inceptionctl.bench.timing import Contestant, Figure, interleaved
from inceptionctl.models import build_model
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.optim import WeightAverage, build_optimizer
from inceptionctl.train.optimizer_state import WholeState
from inceptionctl.train.step import allow_tf32, autocast, resolve_precision, training_loss


class _Job:
    """A recipe's network with its optimizer and averages, and images of noise."""

    def __init__(self, recipe: Recipe, device: torch.device, batch_size: int) -> None:
        torch.manual_seed(0)
        self.recipe, self.device = recipe, device
        self.precision = resolve_precision(recipe.train.precision, device)
        allow_tf32(recipe.train.tf32)
        self.model: nn.Module = build_model(**recipe.model.network())
        self.model.to(device=device)
        if recipe.train.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.optimizer = build_optimizer(self.model, recipe.optim, 1e-6)
        self.average = WeightAverage(self.model, recipe.train.ema_decay)
        px = recipe.model.input_px
        self.images = torch.randn(batch_size, 3, px, px, device=device).to(memory_format=torch.channels_last)
        self.labels = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.progress = Progress(recipe=recipe.resolved())

    def step(self) -> None:
        """One step of training, and the wait for it."""
        with autocast(self.precision, self.device):
            output = self.model(self.images)
        train = self.recipe.train
        loss, reported = training_loss(
            output, self.labels, label_smoothing=train.label_smoothing, aux_loss_weight=train.aux_loss_weight
        )
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model)
        float(reported.detach())


def bench_checkpoint(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    batch_size: int,
    repeats: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Figure], int]:
    """Figures in seconds, and the bytes of a checkpoint.

    `folder` is on the disk to be measured and is written into. A step is one of `batch_size` images of noise on one rank, without
    the reading of data. Raises EnvironmentFault when the disk refuses.
    """
    job = _Job(recipe, device, batch_size)
    writer = CheckpointWriter(folder / "background", keep_last=1, keep_best=False, say=lambda _: None)
    everything = (job.model, job.average, job.optimizer, job.progress)
    state = WholeState(job.model, job.optimizer)

    def save() -> None:
        writer.save(job.model, job.average, state.state_dict(), job.progress)

    def writing_begun() -> None:
        writer.finish()
        save()

    job.step()  # an optimizer has its state after the first
    contestants = [
        Contestant("step", job.step, 1, before=writer.finish),
        Contestant("held up, foreground", lambda: _discard(save_checkpoint(folder / "foreground", *everything)), 1),
        Contestant("held up, background", save, 1, before=writer.finish),
        Contestant("step while one is written", job.step, 1, before=writing_begun),
    ]
    taken = interleaved(contestants, repeats, progress)
    writer.finish()
    figures = [Figure(one.name, "s", [each.seconds for each in taken[one.name]]) for one in contestants]
    seconds = {figure.name: figure.values for figure in figures}
    for name in ("held up, foreground", "held up, background"):
        shares = [stall / step for stall, step in zip(seconds[name], seconds["step"], strict=True)]
        figures.append(Figure(f"{name} / step", "ratio", shares))
    saved = next((folder / "background").glob("step-*"))
    return figures, sum(file.stat().st_size for file in saved.iterdir())


def _discard(_: object) -> None:
    """A round gives nothing back."""
