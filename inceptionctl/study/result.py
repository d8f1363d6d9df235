"""What came of a study: measures of every training, statistics over seeds, paired differences."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from inceptionctl import __version__
from inceptionctl.recipe.study_recipe import Study
from inceptionctl.run import is_run
from inceptionctl.study.cells import Cell, doubts, tuning_losses
from inceptionctl.study.measures import (
    MEASURES,
    Measured,
    PairedDifference,
    Summary,
    final_loss,
    measure,
    paired,
    summary,
    summary_of_steps,
)

if TYPE_CHECKING:  # which imports torch
    from inceptionctl.study.ensembles import EnsemblesResult


class ConditionResult(TypedDict):
    """An arm at a point of the grid."""

    name: str
    arm: str
    point: str
    tuned: float | None
    """The value that the tuning has chosen."""
    trainings: list[Measured]
    died: int
    diverged: int
    died_at: Summary
    """Steps at which those that died or diverged ended."""
    unfinished: int
    summaries: dict[str, Summary]
    """By measure, over the finished trainings; mean training loss and share of zeros over those that died or diverged too."""
    error_interval: list[float] | None
    """95% of the final error over the validation images, of the training with the median error; None where two are in the middle."""
    steps_to: dict[str, Summary]
    """By top-1 error in percent, over all that have ended; the median is null where half of them never reached it."""


class Tuned(TypedDict):
    """One value of the tuned key."""

    condition: str
    value: float
    final_losses: list[float | None]
    """Of each seed; null where it diverged or died, or where its metrics are lost (see `problems`)."""


class StudyResult(TypedDict):
    """study.json."""

    study: str
    question: str
    made: str
    version: str
    tuned_key: str | None
    tuning: list[Tuned]
    tuning_doubts: list[str]
    """Why chosen values may not be the best."""
    conditions: list[ConditionResult]
    differences: list[PairedDifference]
    ensembles: EnsemblesResult | None
    """None for a study without ensembles."""
    unfinished: int
    """Trainings that have not ended."""
    problems: list[str]
    """What could not be read of the trainings, those of the tuning too, with the run directory."""


OF_THE_DEAD_TOO = ("mean_loss", "zero_share")


def result_of(
    name: str,
    study: Study,
    cells: Sequence[Cell],
    tuning: Sequence[Cell],
    chosen: dict[str, float],
    ensembles: EnsemblesResult | None,
) -> StudyResult:
    """Measure the trainings that have ended. A finished one counts in all measures, one that died in OF_THE_DEAD_TOO and the steps to an error.

    `cells` are the trainings that are reported, `tuning` those that chose the value of the tuned key.
    """
    losses = tuning_losses(tuning)
    conditions = [
        _condition(
            one.name, one.arm, one.point, chosen.get(one.name), [cell for cell in cells if cell.condition == one.name], study
        )
        for one in study.conditions
    ]
    return {
        "study": name,
        "question": study.section.question,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "tuned_key": study.section.tune.key if study.section.tune else None,
        "tuning": [
            {"condition": condition, "value": value, "final_losses": seeds}
            for condition, values in losses.items()
            for value, seeds in values.items()
        ],
        "tuning_doubts": list(doubts(study.section.tune.key, losses, chosen)) if study.section.tune else [],
        "conditions": conditions,
        "differences": _differences(study, conditions),
        "ensembles": ensembles,
        "unfinished": sum(condition["unfinished"] for condition in conditions),
        "problems": [*_problems(tuning, "; the tuning counts it as died"), *_problems(cells, "")],
    }


def _problems(cells: Sequence[Cell], so: str) -> Iterator[str]:
    for found in (cell.contents for cell in cells if is_run(cell.run.path)):
        yield from (f"{found.run.path}: {problem}" for problem in found.problems)
        if found.state == "finished" and final_loss(found.train_rows) is None:
            yield f"{found.run.path}: the training has finished, but metrics.jsonl has no training loss{so}"


def _condition(name: str, arm: str, point: str, tuned: float | None, cells: Sequence[Cell], study: Study) -> ConditionResult:
    errors = study.section.errors
    trainings = [measure(cell.contents, cell.seed, errors) for cell in cells if cell.is_done]
    lived = [one for one in trainings if one["ended"] == "finished"]
    return {
        "name": name,
        "arm": arm,
        "point": point,
        "tuned": tuned,
        "trainings": trainings,
        "died": sum(one["ended"] == "died" for one in trainings),
        "diverged": sum(one["ended"] == "diverged" for one in trainings),
        "died_at": summary([one["died_at"] for one in trainings]),
        "unfinished": len(cells) - len(trainings),
        "summaries": {key: summary([one[key] for one in (trainings if key in OF_THE_DEAD_TOO else lived)]) for key in MEASURES},  # type: ignore[literal-required]
        "error_interval": _median_training(lived),
        "steps_to": {
            limit: summary_of_steps([one["steps_to"][limit] for one in trainings])
            for limit in (f"{error:g}" for error in errors)
        },
    }


def _median_training(lived: Sequence[Measured]) -> list[float] | None:
    judged = sorted((one for one in lived if one["final_error"] is not None), key=lambda one: one["final_error"] or 0.0)
    return judged[len(judged) // 2]["final_error_interval"] if len(judged) % 2 else None


def _differences(study: Study, conditions: Sequence[ConditionResult]) -> list[PairedDifference]:
    """Of each pair of arms at each point of the grid."""
    found = []
    for first, second in study.section.pairs_of_arms:
        for one in (condition for condition in conditions if condition["arm"] == first):
            other = next(it for it in conditions if it["arm"] == second and it["point"] == one["point"])
            for key in ("final_error", "best_error", "final_loss", "mean_loss"):
                names = (one["name"], other["name"])
                found.append(paired(_by_seed(one, key), _by_seed(other, key), names, key))
    return found


def _by_seed(condition: ConditionResult, key: str) -> dict[int, float | None]:
    # The mean loss of a training that died is that of its first steps: a difference would measure when it died.
    return {one["seed"]: one[key] if one["ended"] == "finished" else None for one in condition["trainings"]}  # type: ignore[literal-required]
