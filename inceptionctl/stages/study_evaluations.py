"""The evaluations that the ensembles of a study need, after its trainings."""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import RanksEndedError, ResumeLater
from inceptionctl.stages.commands import command_words

if TYPE_CHECKING:
    from inceptionctl.recipe.study_recipe import Study
    from inceptionctl.stages.study import StudyRequest
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


def ensembles(loaded: Study, cells: Sequence[Cell], request: StudyRequest) -> EnsemblesResult | None:
    """Evaluate the networks that are trained and not evaluated yet, and average them; None for a study without ensembles.

    Nothing is evaluated where the request is for a report only. Raises ResumeLater after a signal, RanksEndedError when an evaluation failed.
    """
    if not loaded.section.ensembles:
        return None
    from inceptionctl.study.ensembles import ensembles_of, evaluations

    found = evaluations(loaded, cells)
    trained = [one for one in found if one.record is None and one.cell.is_done and one.cell.contents.state == "finished"]
    if not trained or request.report_only:
        return ensembles_of(loaded, found)
    for number, one in enumerate(found, start=1):
        if one in trained:
            _evaluate_unless_done(one.cell, f"evaluation {number} of {len(found)}: {one.cell.name}", loaded, request)
    return ensembles_of(loaded, evaluations(loaded, cells))


def _evaluate_unless_done(cell: Cell, what: str, loaded: Study, request: StudyRequest) -> None:
    from inceptionctl.study.ensembles import evaluations

    with _alone(cell) as alone:
        if not alone:
            console.say(f"{cell.name}: evaluated by another command; passed over")
        elif evaluations(loaded, [cell])[0].record is None:  # another of these commands may have evaluated it meanwhile
            console.say(what)
            _evaluate(cell, loaded, request)


@contextmanager
def _alone(cell: Cell) -> Iterator[bool]:
    """Hold a lock on the evaluations of a run; False where another command does."""
    from inceptionctl.storage import disk_errors

    folder = cell.run.evaluations
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _evaluate(cell: Cell, loaded: Study, request: StudyRequest) -> None:
    from inceptionctl.distributed.stage import run_stage
    from inceptionctl.study.ensembles import CHECKPOINT

    options = {"protocol": loaded.section.protocol, "checkpoint": CHECKPOINT, "data": cell.recipe.data.root_path}
    code = run_stage(command_words("evaluate", cell.run.path, options={**options, **request.ranks}))
    again = f"resume with: {shlex.join(['inceptionctl', *request.words])}"
    if code == ResumeLater.exit_code:
        raise ResumeLater(f"stopped in the evaluation of {cell.name}", again)
    if code:
        console.say(f"the evaluation of {cell.name} ended with exit code {code}; once that is fixed, {again}")
        raise RanksEndedError(code)
