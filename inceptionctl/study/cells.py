"""The trainings of a study, each with its place in the study's folder and how far it is.

runs/residual/
  study.json, index.html, *.png   what came of it
  tuning/ARM/0.03_seed-0          run directories of the tuning, each with its recipe beside it
  runs/ARM/seed-1                 run directories that are reported
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.study_recipe import Condition, Study, in_words
from inceptionctl.run import Run, is_run, refuse_another_run
from inceptionctl.run_contents import RunContents, read_run
from inceptionctl.study.measures import final_loss
from inceptionctl.train.inheritance import inherit

DONE = ("finished", "diverged")
"""A training that diverged or died is a result."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    condition: str
    """Arm and point of the grid."""
    seed: int
    value: float | None
    """Of the tuned key."""
    recipe: Recipe
    run: Run

    @property
    def recipe_file(self) -> Path:
        """The complete recipe, beside the run directory, since that may not exist yet."""
        return self.run.path.with_name(f"{self.run.path.name}.yaml")

    @property
    def name(self) -> str:
        """In words, for messages."""
        tuned = f", {in_words(self.value)}" if self.run.path.parents[1].name == TUNING and self.value is not None else ""
        return f"{self.condition}{tuned}, seed {self.seed}"

    @cached_property
    def contents(self) -> RunContents:
        """What is in the run directory now."""
        return read_run(self.run)

    @property
    def is_done(self) -> bool:
        """Whether it needs no more training."""
        return is_run(self.run.path) and self.contents.state in DONE


TUNING = "tuning"

MEASURED = (
    *("train.epochs", "train.max_steps", "train.stop_when", "health"),
    *(f"evaluate.{key}" for key in ("every_epochs", "central_fraction", "keep_aspect", "interpolation", "antialias", "subset")),
)
"""What a training that is resumed may change, but not one of several that are compared."""


def tuning_cells(study: Study, folder: Path) -> list[Cell]:
    """The trainings that choose the tuned key's value for each condition. Raises CheckpointError for a folder that holds another study."""
    tune = study.section.tune
    if tune is None:
        return []
    return [
        _cell(study, condition, seed, value, folder / TUNING / condition.name / f"{in_words(value)}_seed-{seed}")
        for condition in study.conditions
        for value in tune.values
        for seed in tune.seeds
    ]


def reported_cells(study: Study, folder: Path, chosen: dict[str, float]) -> list[Cell]:
    """The trainings that are reported; `chosen` is the tuned key's value by condition. Raises CheckpointError as `tuning_cells`."""
    # Seeds outermost: a study that is looked at before its end has as many of each condition.
    return [
        _cell(study, condition, seed, chosen.get(condition.name), folder / "runs" / condition.name / f"seed-{seed}")
        for seed in study.section.seeds
        for condition in study.conditions
        if seed in study.section.seeds_of(condition.arm)
    ]


def _cell(study: Study, condition: Condition, seed: int, value: float | None, path: Path) -> Cell:
    recipe, run = inherit(study.recipe(condition, seed, value), path), Run(path)
    refuse_another_run(recipe, run, (*MEASURED, *study.section.varied))
    return Cell(condition.name, seed, value, recipe, run)


def tuning_losses(cells: Sequence[Cell]) -> dict[str, dict[float, list[float | None]]]:
    """Final training loss of each seed by condition and value, of the trainings that are done; None where one diverged or died."""
    found: dict[str, dict[float, list[float | None]]] = {}
    for cell in (one for one in cells if one.is_done):
        loss = None if cell.contents.state == "diverged" else final_loss(cell.contents.train_rows)
        if cell.value is not None:
            found.setdefault(cell.condition, {}).setdefault(cell.value, []).append(loss)
    return found


def choose(losses: dict[str, dict[float, list[float | None]]]) -> dict[str, float]:
    """The value with the lowest median loss by condition; a training that died counts as infinitely bad, and of equals the lowest is taken."""

    def median(seeds: Sequence[float | None]) -> float:
        return statistics.median(float("inf") if loss is None else loss for loss in seeds)

    return {condition: min(values, key=lambda value: (median(values[value]), value)) for condition, values in losses.items()}


def doubts(key: str, losses: dict[str, dict[float, list[float | None]]], chosen: dict[str, float]) -> dict[str, str]:
    """Why chosen values may not be the best, each reason with what to do: the trainings died at every value, or the best is the last one."""
    found: dict[tuple[str, str], list[str]] = {}
    for condition, value in chosen.items():
        seeds, tried = losses[condition][value], losses[condition]
        if 2 * seeds.count(None) >= len(seeds):  # the lowest median is infinite then
            reason = ("half or more of the trainings died at every value, and the lowest was taken", "lower")
        elif value in (min(tried), max(tried)):
            end = ("lowest", "lower") if value == min(tried) else ("highest", "higher")
            reason = (f"the {end[0]} value tried was chosen, and the best may lie beyond", end[1])
        else:
            continue
        found.setdefault(reason, []).append(f"{condition} ({value:g})")
    return {
        f"{key}: {what}: {'; '.join(names)}": f"add {side} values to study.tune.values" for (what, side), names in found.items()
    }
