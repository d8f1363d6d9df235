"""The evaluations that the ensembles of a study need, after its trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.stages.commands import command_words, run_step

if TYPE_CHECKING:
    from inceptionctl.recipe.study_recipe import Study
    from inceptionctl.stages.study import StudyRequest
    from inceptionctl.stages.trainings import Trainings
    from inceptionctl.study.cells import Cell
    from inceptionctl.study.ensembles import EnsemblesResult


def check(loaded: Study) -> None:
    """Raise what would keep the ensembles from being combined once their networks are trained."""
    if loaded.section.ensembles:
        from inceptionctl.study.ensembles import check_ensembles

        check_ensembles(loaded)


def planned(loaded: Study, cells: Sequence[Cell]) -> list[console.JsonObject]:
    """Of a dry run: the evaluations, and which are done."""
    if not loaded.section.ensembles:
        return []
    from inceptionctl.study.ensembles import evaluations

    return [
        {
            "condition": one.cell.condition,
            "seed": one.cell.seed,
            "protocol": loaded.section.protocol,
            "run": str(one.cell.run.path),
            "evaluation": one.record and str(one.record),
        }
        for one in evaluations(loaded, cells)
    ]


def ensembles(loaded: Study, cells: Sequence[Cell]) -> EnsemblesResult | None:
    """The ensembles as far as their networks are evaluated; None for a study without any. Raises DataError, CheckpointError."""
    if not loaded.section.ensembles:
        return None
    from inceptionctl.study.ensembles import ensembles_of, evaluations

    return ensembles_of(loaded, evaluations(loaded, cells))


def missing(loaded: Study, cells: Sequence[Cell]) -> list[tuple[str, Cell]]:
    """The networks that are trained and not evaluated yet, each with its number among all that the ensembles need, in words."""
    if not loaded.section.ensembles:
        return []
    from inceptionctl.study.ensembles import evaluations

    found = evaluations(loaded, cells)
    return [
        (f"evaluation {number} of {len(found)}: {one.cell.name}", one.cell)
        for number, one in enumerate(found, start=1)
        if one.record is None and one.cell.is_done and one.cell.contents.state == "finished"
    ]


def evaluate(loaded: Study, left: Sequence[tuple[str, Cell]], request: StudyRequest, trainings: Trainings) -> None:
    """Evaluate those that are `missing`, as long as the budget of `trainings` lasts. Raises ResumeLater after a signal, RanksEndedError
    when an evaluation failed."""
    for number, (what, cell) in enumerate(left):
        if trainings.ends_before_evaluations(len(left) - number):
            return
        _evaluate_unless_done(cell, what, loaded, request)


def _evaluate_unless_done(cell: Cell, what: str, loaded: Study, request: StudyRequest) -> None:
    from inceptionctl.storage import disk_errors
    from inceptionctl.study.ensembles import evaluations
    from inceptionctl.train.lock import take_claim

    with disk_errors(cell.run.evaluations):
        cell.run.evaluations.mkdir(exist_ok=True)
    claim = take_claim(cell.run.evaluations / ".lock")
    if claim is None:
        console.say(f"{cell.name}: evaluated by another command; passed over")
        return
    with claim:
        if evaluations(loaded, [cell])[0].record is None:  # another of these commands may have evaluated it meanwhile
            console.say(what)
            _evaluate(cell, loaded, request)


def _evaluate(cell: Cell, loaded: Study, request: StudyRequest) -> None:
    from inceptionctl.study.ensembles import CHECKPOINT

    options = {"protocol": loaded.section.protocol, "checkpoint": CHECKPOINT, "data": cell.recipe.data.root_path}
    run_step(cell.name, command_words("evaluate", cell.run.path, options={**options, **request.ranks}), request.words)
