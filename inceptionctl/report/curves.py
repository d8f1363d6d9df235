"""Curves of one run: training loss, and validation errors by epoch as in the paper's Figures 21 to 26."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inceptionctl.errors import DataError
from inceptionctl.evaluate.drawing import picture_format
from inceptionctl.run import Run, write_atomically
from inceptionctl.run_contents import Row, by_subset


def draw_curves(run: Run, file: Path) -> None:
    """Draw the rows of metrics.jsonl into `file` (png, svg or pdf by its suffix).

    Raises RecipeError for another suffix, DataError for a run without numbers, EnvironmentFault when the file cannot be written.
    """
    suffix = picture_format(file, "curves.png")
    rows = list(run.metrics())
    train = [row for row in rows if row.get("kind") == "train"]
    if not train:
        raise DataError(f"{run.path} has no numbers yet: metrics.jsonl is empty", "train it first")
    write_atomically(file, _draw(run.path.name, train, [row for row in rows if row.get("kind") == "evaluate"], suffix))


def _draw(title: str, train: Sequence[Row], evaluate: Sequence[Row], suffix: str) -> bytes:
    # The object interface, not pyplot: no display is needed and nothing global is changed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    loss, error = figure.subplots(1, 2)
    _line(loss, train, "loss", "training")
    for subset, rows in by_subset(evaluate).items():
        of = "" if subset == "all" else f", {subset}"
        _line(loss, rows, "loss", f"validation, EMA{of}", "o")
        _line(error, rows, "top1_error", f"top-1{of}", "o")
        if any(row.get("top5_error") for row in rows):  # all zero where there are five classes or fewer
            _line(error, rows, "top5_error", f"top-5{of}", "s")
    loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    error.set(xlabel="epoch", ylabel="validation error in %", ylim=(0, None))
    for axes in (loss, error):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix, dpi=120)
    return picture.getvalue()


def _line(axes: Any, rows: Sequence[Row], key: str, label: str, marker: str = "") -> None:
    points = [(row["epoch"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    if points:
        axes.plot(*zip(*points, strict=True), marker=marker, label=label)
