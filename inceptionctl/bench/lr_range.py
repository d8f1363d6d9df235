"""`bench lr`: the learning rate range test, in the parts of the real training loop.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017, arXiv 1506.01186), section 3.3; with a rate that rises
exponentially, so that each decade gets as many steps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.heartbeat import State
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.errors import ResumeLater
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import create_run
from inceptionctl.train.build import build_training
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.engine import Engine
from inceptionctl.train.fine_tuning import read_initial_weights, start_from
from inceptionctl.train.inheritance import find_weights, first_weights
from inceptionctl.train.job import Training
from inceptionctl.train.loop import train_loader
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.preflight import Opened
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.step import autocast, noise_seed, training_loss
from inceptionctl.train.torch_compile import compile_errors

DIVERGED = 4.0  # times the best smoothed loss
MEMORY = 0.9  # of the running mean that is compared while the test runs
WIDTH = 1 / 20  # of the Gaussian that smooths the curve, as a share of the steps
TENTH = 0.1


@dataclass(frozen=True)
class Suggestion:
    """What a curve of losses says."""

    steepest_lr: float | None
    """Where the smoothed loss falls most steeply over the logarithm of the rate; None where it does not fall."""
    tenth_lr: float | None
    """A tenth of the rate at which the loss diverged; None where it did not."""


class Divergence:
    """Tells when a loss has left: above 4 times the best running mean, or not finite."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._best = math.inf

    def has_come(self, loss: float) -> bool:
        """After one more step's loss."""
        self._sum = MEMORY * self._sum + (1.0 - MEMORY) * loss
        self._weight = MEMORY * self._weight + (1.0 - MEMORY)
        mean = self._sum / self._weight
        if not math.isfinite(mean):
            return True
        self._best = min(self._best, mean)
        return mean > DIVERGED * self._best


def rates(first: float, last: float, steps: int) -> list[float]:
    """Of `steps` steps, each by the same factor above the one before."""
    return [float(rate) for rate in np.geomspace(first, last, steps)]


def smoothed(losses: Sequence[float]) -> NDArray[np.float64]:
    """Means weighted by a Gaussian to both sides: unlike a running mean they do not lag behind the rate.

    The losses of a divergence count as 4 times the lowest, else one of them would bend the curve a decade before.
    """
    places = np.arange(len(losses))
    values = np.minimum(losses, DIVERGED * min(losses, default=0.0))
    weights = np.exp(-0.5 * ((places[:, None] - places) / (WIDTH * len(losses) or 1.0)) ** 2)
    means: NDArray[np.float64] = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return means


def suggest(tried: Sequence[float], losses: Sequence[float], diverged: bool) -> Suggestion:
    """From steps at rising rates; the last of the losses, which are finite, may be missing."""
    tenth = TENTH * tried[-1] if diverged else None
    curve = smoothed(losses)
    lowest = int(curve.argmin()) if len(curve) else 0
    if lowest < 1:
        return Suggestion(None, tenth)
    slopes = np.gradient(curve[: lowest + 1], np.log(tried[: lowest + 1]))
    return Suggestion(float(tried[int(slopes.argmin())]) if slopes.min() < 0.0 else None, tenth)


def measure(
    joined: Session,
    recipe: Recipe,
    images: Opened,
    folder: Path,
    signals: RankSignals,
    wanted: Sequence[float],
    progress: Callable[[str, int, int], None],
) -> tuple[list[float], bool, Training]:
    """(The loss of each step that was made, the mean over ranks and micro batches; whether it has diverged; what was trained.)

    One optimizer step of the recipe's global batch at each of the `wanted` rates; every rank calls it. `folder` is empty and temporary.
    Raises DataError for images that cannot be decoded, ResumeLater when a signal came.
    """
    job, losses, divergence = _job(joined, recipe, images, folder, signals, len(wanted)), list[float](), Divergence()
    try:
        job.blocks.set_modes()
        job.health.listen(False)
        with closing(train_loader(job)) as batches, compile_errors(recipe.train.compile):
            for step, rate in enumerate(wanted):
                progress("steps", step, len(wanted))
                job.heartbeat.enter(State.TRAINS, step)
                losses.append(_step(job, batches, step, rate))
                if job.stop.is_agreed():
                    raise ResumeLater("stopped by a signal: nothing was measured", "give the same command again")
                if divergence.has_come(losses[-1]):
                    return losses, True, job
        return losses, False, job
    finally:
        job.log.close()


def _step(job: Training, batches: Iterator[Batch], step: int, rate: float) -> float:
    """One step of train/loop.py without what it logs, averages and saves; the loss, the same on every rank."""
    train, total = job.recipe.train, torch.zeros((), device=job.device)
    job.engine.set_learning_rate(rate)
    for micro in range(job.batch.accumulation):
        batch = next(batches)
        torch.manual_seed(noise_seed(train.seed, step, job.world.rank * job.batch.accumulation + micro))
        with autocast(job.precision, job.device):
            output = job.engine.forward(batch.images)
        loss, reported = training_loss(
            output,
            batch.labels,
            batch.mixed,
            kind=train.loss,
            label_smoothing=train.label_smoothing,
            aux_loss_weight=train.aux_loss_weight,
        )
        job.engine.backward(loss)
        job.engine.step()
        total += reported.detach()
    job.stop.vote()
    job.statistics.average()
    if job.world.size > 1:
        dist.all_reduce(total)
    return float(total) / job.batch.accumulation / job.world.size


def _job(joined: Session, recipe: Recipe, images: Opened, folder: Path, signals: RankSignals, num_steps: int) -> Training:
    run = create_run(folder, recipe)

    def prepare(model: nn.Module) -> None:
        path = first_weights(recipe)
        if path is not None:
            start_from(read_initial_weights(find_weights(path)), model, recipe.model)

    def begin(engine: Engine, average: WeightAverage) -> Progress:
        return Progress(recipe=recipe.resolved(), total_steps=num_steps, classes=list(images[0].classes))

    def open_log(progress: Progress) -> RunLog:
        return RunLog(run, start_step=0, enabled=joined.world.rank == 0, of_a_training=False)

    return build_training(
        joined, recipe, run, images, signals, loader=train_loader, open_log=open_log, prepare=prepare, restore=begin
    )


def drawn(
    title: str, tried: Sequence[float], losses: Sequence[float], suggestion: Suggestion, diverged_at: float | None, form: str
) -> bytes:
    """Loss against rate, with what was suggested, as a picture in the format `form`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, wrap=True)
    axes.plot(tried, losses, ".", color="#56b4e9", label="loss of a step")
    axes.plot(tried, smoothed(losses), color="#0072b2", label="smoothed")
    for rate, what, colour in (
        (suggestion.steepest_lr, "steepest descent", "#009e73"),
        (suggestion.tenth_lr, "a tenth of where it diverged", "#e69f00"),
        (diverged_at, "diverged", "#d55e00"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", label=f"{what}: {rate:.2g}")
    best = float(smoothed(losses).min())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.0, 1.05 * min(max(losses), DIVERGED * best)))
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=120)
    return picture.getvalue()
