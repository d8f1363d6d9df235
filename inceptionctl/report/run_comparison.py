"""Several runs side by side: in what their recipes differ, and where their curves end. What a run has lost is None."""

from __future__ import annotations

import contextlib
import datetime
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict

from inceptionctl.recipe import yaml_source
from inceptionctl.recipe.schema import flatten
from inceptionctl.run_contents import Row, RunContents, finite
from inceptionctl.section import Tree


class KeyDifference(TypedDict):
    """A key of the recipe that is not the same in all runs."""

    key: str
    values: dict[str, Any]
    """By the path of the run; a recipe without this key (another optimizer's, an older version's) is left out."""


class Comparison(TypedDict):
    """What `runs compare --json` prints."""

    runs: list[Row]
    differences: list[KeyDifference]


def compare_runs(found: Sequence[RunContents]) -> Comparison:
    """Ends of the curves of each run, and the keys in which their recipes differ, in reading order. Never raises on damage."""
    return {"runs": [_end_of(one) for one in found], "differences": _differences(found)}


def _differences(found: Sequence[RunContents]) -> list[KeyDifference]:
    recipes = {str(one.run.path): flatten(tree) for one in found if (tree := _recipe_of(one))}
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    differences: list[KeyDifference] = []
    for key in keys:
        values = {path: recipe[key] for path, recipe in recipes.items() if key in recipe}
        first, *others = values.values()
        if len(values) < len(recipes) or any(value != first for value in others):
            differences.append({"key": key, "values": values})
    return differences


def _recipe_of(found: RunContents) -> Tree:
    """The recipe, or what is left of it: that of another version as it is written, a lost one out of the newest checkpoint."""
    if found.recipe:
        return found.recipe.resolved()
    with contextlib.suppress(OSError, ValueError):
        if tree := yaml_source.parse(found.run.recipe_file.read_text(encoding="utf-8"), "recipe.yaml").data:
            return tree
    return dict(found.progress.get("recipe") or {})


def _end_of(found: RunContents) -> Row:
    validations = [row for row in found.evaluate_rows if finite(row.get("top1_error")) is not None]
    losses = [loss for row in found.train_rows if (loss := finite(row.get("loss"))) is not None]
    rates = [rate for row in found.train_rows if (rate := finite(row.get("images_per_second"))) is not None]
    return {
        "name": found.run.path.name,
        "path": str(found.run.path),
        "state": found.state,
        "step": found.step,
        "total_steps": found.progress.get("total_steps"),
        "epoch": found.epoch,
        "last_loss": losses[-1] if losses else None,
        "last_validation": validations[-1] if validations else None,
        "best_validation": found.best_validation,
        "images_per_second": statistics.median(rates) if rates else None,
        "seconds": seconds_trained(found),
        "problems": found.problems,
    }


def seconds_trained(found: RunContents) -> float | None:
    """Time from each start to its last row. What was trained after a last checkpoint and done again counts once."""
    began = [time for start in found.starts if (time := _timestamp(start.get("started"))) is not None]
    rows = [time for row in (*found.train_rows, *found.evaluate_rows) if (time := finite(row.get("time"))) is not None]
    total, known = 0.0, False
    for start, following in pairwise([*sorted(began), float("inf")]):
        of_start = [time for time in rows if start <= time < following]
        if of_start:
            total, known = total + max(of_start) - start, True
    return total if known else None


def _timestamp(text: object) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
