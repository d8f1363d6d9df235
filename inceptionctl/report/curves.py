"""Curves of one run: training loss, and validation errors by epoch as in the paper's Figures 21 to 26."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inceptionctl.errors import DataError
from inceptionctl.evaluate.crop_boxes import picture_format
from inceptionctl.models import MODELS
from inceptionctl.recipe.model_section import AUTO_CLASSES, ModelSection
from inceptionctl.run import Run
from inceptionctl.run_contents import Row, RunContents, by_subset, finite, read_run
from inceptionctl.storage import write_atomically


def least_loss(label_smoothing: float, num_classes: int) -> float:
    """The minimum cross entropy with label smoothing: the entropy of a smoothed label in nats (train/step.py)."""
    rest = label_smoothing / num_classes
    shares = [1.0 - label_smoothing + rest, *[rest] * (num_classes - 1)]
    return -sum(share * math.log(share) for share in shares if share)


def training_loss_in_words(found: RunContents) -> str:
    """A sentence about the training loss of a run; empty if its recipe cannot be read."""
    if found.recipe is None:
        return ""
    smoothing, num_classes = found.recipe.train.label_smoothing, found.recipe.model.num_classes
    weighted = found.recipe.train.class_weights is not None
    if found.recipe.train.loss == "bce" or found.recipe.data.augment.mix.is_on or weighted:
        kind = "binary cross entropy" if found.recipe.train.loss == "bce" else "cross entropy"
        kind = f"{kind} weighted by class" if weighted else kind
        mixed = " of mixed images" if found.recipe.data.augment.mix.is_on else ""
        labels = f"{kind}{mixed}, label smoothing {smoothing:g}"
    elif smoothing:
        # Before its first start a run may not know how many classes it has.
        least = f", at least {least_loss(smoothing, num_classes):.2f}" if num_classes != AUTO_CLASSES else ""
        labels = f"cross entropy with label smoothing {smoothing:g}{least}"
    else:
        labels = "cross entropy, no label smoothing"
    return labels + (", without the auxiliary head's loss" if _has_aux_head(found.recipe.model) else "")


def _has_aux_head(model: ModelSection) -> bool:
    own = MODELS[model.name].aux_head if model.name in MODELS else None
    return bool(own if model.aux_head is None else model.aux_head)


WIDE_RANGE = 50.0


def draw_curves(run: Run, file: Path) -> None:
    """Draw the rows of metrics.jsonl into `file` (png, svg or pdf by its suffix).

    Raises RecipeError for another suffix, DataError for a run without numbers, EnvironmentFault when the file cannot be written.
    """
    suffix = picture_format(file, "curves.png")
    found = read_run(run)
    if not found.train_rows:
        raise DataError(f"{run.path} has no numbers yet: metrics.jsonl is empty", "train it first")
    write_atomically(file, _draw(found, suffix))


def _draw(found: RunContents, suffix: str) -> bytes:
    # The object interface, not pyplot: no display is needed and nothing global is changed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(found.run.path.resolve().name, wrap=True)
    loss, error = figure.subplots(1, 2)
    smoothing = found.recipe.train.label_smoothing if found.recipe else None
    _line(loss, found.train_rows, "loss", f"training, label smoothing {smoothing:g}" if smoothing else "training")
    for subset, rows in by_subset(found.evaluate_rows).items():
        of = "" if subset == "all" else f", {subset}"
        _line(loss, rows, "loss", f"validation, EMA{of}", "o")
        _line(error, rows, "top1_error", f"top-1{of}", "o")
        if found.has_top5:
            _line(error, rows, "top5_error", f"top-5{of}", "s")
    loss.set(xlabel="epoch", ylabel="loss")
    scale_of_losses(loss, [*found.train_rows, *found.evaluate_rows])
    error.set(xlabel="epoch", ylabel="validation error in %", ylim=(0, 1.05 * error.dataLim.ymax if error.lines else None))
    for axes in (loss, error):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix, dpi=120)
    return picture.getvalue()


def scale_of_losses(axes: Any, rows: Sequence[Row]) -> None:
    """Linear from zero; logarithmic if the first losses would squeeze the others onto the axis."""
    losses = [value for row in rows if (value := finite(row.get("loss"))) is not None and value > 0]
    if losses and max(losses) > WIDE_RANGE * min(losses):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.05 * max(losses, default=1.0))


def _line(axes: Any, rows: Sequence[Row], key: str, label: str, marker: str = "") -> None:
    points = [(row["epoch"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    if points:
        axes.plot(*zip(*points, strict=True), marker=marker, label=label)
