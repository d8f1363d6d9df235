"""Learning rate as a pure function of the position, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from inceptionctl.words import counted_epochs

Curve = Callable[[float, float, Mapping[str, Any]], float]


def staircase(epoch: float, _epochs: float, values: Mapping[str, Any]) -> float:
    """The paper's: base_lr x factor ^ floor(epoch / every_epochs) (section 4: 0.045, 0.94, 2)."""
    # The small constant keeps a stair that begins on a whole step from starting one step late by rounding.
    stair = math.floor(epoch / values["every_epochs"] + 1e-9)
    return float(values["base_lr"] * values["factor"] ** stair)


def constant(_epoch: float, _epochs: float, values: Mapping[str, Any]) -> float:
    """base_lr throughout."""
    return float(values["base_lr"])


def cosine(epoch: float, epochs: float, values: Mapping[str, Any]) -> float:
    """Half a cosine from base_lr, after the warm-up, to final_lr at the end."""
    start = values["warmup_epochs"]
    done = min(1.0, max(0.0, (epoch - start) / (epochs - start)))
    low, high = values["final_lr"], values["base_lr"]
    return float(low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * done)))


SCHEDULES: dict[str, Curve] = {"staircase": staircase, "constant": constant, "cosine": cosine}


def learning_rate(values: Mapping[str, Any], *, step: int, steps_per_epoch: float, epochs: float) -> float:
    """Learning rate of optimizer step `step` (from 0). `values` are the keys of the recipe's schedule section."""
    warmup_steps = values["warmup_epochs"] * steps_per_epoch
    rate = SCHEDULES[values["name"]](step / steps_per_epoch, epochs, values)
    # The first step is not wasted on a rate of zero: the rise goes through (step + 1) / warmup_steps.
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else rate


def schedule_in_words(values: Mapping[str, Any], epochs: float) -> str:
    """One line for people, for `train --dry-run`."""
    words = {
        "staircase": lambda: (
            f"{values['base_lr']:g} x {values['factor']:g} every {counted_epochs(values['every_epochs'])},"
            f" down to {staircase(max(0.0, epochs - 1e-6), epochs, values):.3g} at epoch {epochs:g}"
        ),
        "constant": lambda: f"{values['base_lr']:g} throughout",
        "cosine": lambda: f"half a cosine from {values['base_lr']:g} to {values['final_lr']:g} over {counted_epochs(epochs)}",
    }[values["name"]]()
    rise = f", after a linear rise over {counted_epochs(values['warmup_epochs'])}" if values["warmup_epochs"] else ""
    return f"{words}{rise}"
