"""Early stopping: whether a validation was one too many without improvement (`train.stop_when`)."""

from __future__ import annotations

import math

from inceptionctl.train.checkpoint import Lowest
from inceptionctl.train.job import Training
from inceptionctl.words import counted_epochs


def note_validation(job: Training, result: dict[str, float]) -> None:
    """Count a validation; `progress.stopped_early` says why the training ends after it, if it does. The same on all ranks.

    `result` are figures over all ranks, by the names of the metrics.
    """
    wishes, progress, subset = job.recipe.train.stop_when, job.progress, job.recipe.evaluate.subset
    if wishes.patience_epochs is None:
        return
    value, lowest = result[wishes.metric], progress.lowest
    compares = (lowest.get("metric"), lowest.get("subset")) == (wishes.metric, subset)
    best = lowest["value"] if compares else math.inf
    if not compares or value < best:
        # What is no number is never the lowest, but the count begins.
        best = value if math.isfinite(value) else math.inf
        progress.lowest = Lowest(metric=wishes.metric, subset=subset, value=best, step=progress.step)
        return
    # Validations come with the first step at or after their epoch: up to a step late.
    too_long = progress.step - lowest["step"] > wishes.patience_epochs * job.steps_per_epoch - 1
    # Nothing is saved of a network that looks dead, and at the last step there is nothing to stop.
    if too_long and not job.health.suspects and progress.step < progress.total_steps:
        progress.stopped_early = (
            f"no {wishes.metric} below {best:.4f}, of step {lowest['step']},"
            f" for {counted_epochs(wishes.patience_epochs)} (train.stop_when)"
        )
