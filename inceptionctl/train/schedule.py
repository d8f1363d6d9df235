"""Learning rate as a pure function of the position, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from inceptionctl.recipe.variants import ConstantSection, CosineSection, Schedule, StaircaseSection
from inceptionctl.words import counted_epochs


def staircase(schedule: StaircaseSection, epoch: float) -> float:
    """The paper's: base_lr x factor ^ floor(epoch / every_epochs) (section 4: 0.045, 0.94, 2)."""
    # The small constant keeps a stair that begins on a whole step from starting one step late by rounding.
    stair = math.floor(epoch / schedule.every_epochs + 1e-9)
    return schedule.base_lr * schedule.factor**stair


def cosine(schedule: CosineSection, epoch: float, epochs: float) -> float:
    """Half a cosine from base_lr, after the warm-up, to final_lr at the end."""
    start = schedule.warmup_epochs
    done = min(1.0, max(0.0, (epoch - start) / (epochs - start)))
    low, high = schedule.final_lr, schedule.base_lr
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * done))


def learning_rate(schedule: Schedule, *, step: int, steps_per_epoch: float, epochs: float) -> float:
    """Learning rate of optimizer step `step` (from 0)."""
    warmup_steps, epoch = schedule.warmup_epochs * steps_per_epoch, step / steps_per_epoch
    match schedule:
        case StaircaseSection():
            rate = staircase(schedule, epoch)
        case CosineSection():
            rate = cosine(schedule, epoch, epochs)
        case ConstantSection():
            rate = schedule.base_lr
    # The first step is not wasted on a rate of zero: the rise goes through (step + 1) / warmup_steps.
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else rate


def schedule_in_words(schedule: Schedule, epochs: float) -> str:
    """One line for people, for `train --dry-run`."""
    match schedule:
        case StaircaseSection():
            words = (
                f"{schedule.base_lr:g} x {schedule.factor:g} every {counted_epochs(schedule.every_epochs)},"
                f" down to {staircase(schedule, max(0.0, epochs - 1e-6)):.3g} at epoch {epochs:g}"
            )
        case CosineSection():
            words = f"half a cosine from {schedule.base_lr:g} to {schedule.final_lr:g} over {counted_epochs(epochs)}"
        case ConstantSection():
            words = f"{schedule.base_lr:g} throughout"
    rise = f", after a linear rise over {counted_epochs(schedule.warmup_epochs)}" if schedule.warmup_epochs else ""
    return f"{words}{rise}"
