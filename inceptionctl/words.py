"""Counts with their nouns, and error rates, worded the same in every message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_CLASSES_WITHOUT_TOP5 = 5
"""With so few classes the right one is always among the top five: a top-5 error would be meaningless."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `1,234 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def counted_epochs(epochs: float) -> str:
    """`1 epoch`, `2.5 epochs`."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def percent(part: int, whole: int) -> float:
    """A share in percent. 19 of 200 are 9.5, where 100 x (1 - 181 / 200) is 9.499999999999996."""
    return 100.0 * part / whole


def error_and_accuracy(error: float) -> str:
    """Both, of an error in percent."""
    return f"{error:.2f}%, accuracy {100.0 - error:.2f}%"


def best_in_words(best: Mapping[str, Any]) -> str:
    """The best validation of a run, as its checkpoints keep it, with the subset of the images that it was judged on."""
    subset = best.get("subset", "all")
    of = "" if subset == "all" else f" on {subset} images"
    return f"top-1 error {error_and_accuracy(best['top1_error'])}{of} at step {best['step']:.0f}"


def has_top5(num_classes: int) -> bool:
    """Whether a top-5 error is meaningful."""
    return num_classes > MAX_CLASSES_WITHOUT_TOP5


def with_top5_where(says: bool, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures for programs, the top-5 error None unless it `says` anything. The keys stay: all results have the same."""
    return {key: None if key.startswith("top5_error") and not says else value for key, value in figures.items()}
