"""`inceptionctl study`: train what a study's recipe compares, and report it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import CheckpointError, EnvironmentFault, InceptionctlError, RecipeError, ResumeLater
from inceptionctl.stages import study_evaluations
from inceptionctl.stages.checks import check_batch, check_inputs, check_recipe, ranks_of_each
from inceptionctl.stages.commands import command_words
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.recipe.study_recipe import Study
    from inceptionctl.stages.trainings import Trainings
    from inceptionctl.study.cells import Cell
    from inceptionctl.study.ensembles import EnsemblesResult
    from inceptionctl.study.result import StudyResult


@dataclass(frozen=True)
class StudyRequest:
    """The arguments and options of `inceptionctl study`."""

    recipe: str
    """Bundled name or path of a study."""
    settings: Sequence[str] = ()
    """As --set: "train.epochs=10" of every arm, "arms.NAME.train.epochs=10", "study.seeds=[1,2]"."""
    gpus: int | None = None
    cpu_ranks: int | None = None
    jobs: int | None = None
    """Trainings at once; by default one per GPU, or per `gpus` GPUs, and one on a CPU."""
    output: Path | None = None
    """Folder of the runs and the page; runs/NAME by default."""
    report_only: bool = False
    """Train and evaluate nothing."""
    dry_run: bool = False

    @property
    def ranks(self) -> dict[str, int | None]:
        """What each training takes, as options of `train`."""
        return {"gpus": self.gpus, "cpu_ranks": self.cpu_ranks}

    @property
    def folder(self) -> Path:
        """Where the study lies."""
        return self.output or Path("runs") / Path(self.recipe).stem

    @property
    def words(self) -> list[str]:
        """The command that this is."""
        options = {**self.ranks, "jobs": self.jobs, "output": self.output, "report_only": self.report_only}
        return command_words("study", self.recipe, settings=self.settings, options=options)


@dataclass(frozen=True)
class StudyPlan:
    """Of a dry run: the trainings and how far each is."""

    trainings: list[console.JsonObject]
    evaluations: list[console.JsonObject]
    """Of the networks of ensembles, each with the file of its probabilities once it is done."""

    @property
    def sums(self) -> dict[str, int | None]:
        """Images seen, steps, and multiply-adds of all trainings; None where the data set of one is not known."""
        columns = {key: [row[key] for row in self.trainings] for key in ("images", "steps", "multiply_adds")}
        return {key: None if None in values else sum(values) for key, values in columns.items()}

    def to_json(self) -> console.JsonObject:
        """What `--json` prints."""
        return {"trainings": self.trainings, "sums": self.sums, "evaluations": self.evaluations}


@dataclass(frozen=True)
class Studied:
    """What came of it."""

    result: StudyResult
    page: Path

    def to_json(self) -> StudyResult:
        """What `--json` prints."""
        return self.result


def study(request: StudyRequest) -> Studied | StudyPlan:
    """Run the trainings of a study that are missing, and write its page; a dry run only tells what there is.

    Several of these commands, on GPUs or hosts of their own, share the work: each passes over what another trains. Raises RecipeError
    for a study that cannot be run, CheckpointError where its folder holds another one, ResumeLater after a signal or before the tuning is done,
    EnvironmentFault for more trainings at once than this machine can take, and RanksEndedError when a training failed. One that diverged or
    died is a result.
    """
    from inceptionctl.distributed.shares import shares
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment
    from inceptionctl.recipe.study_recipe import is_study, load_study
    from inceptionctl.run import is_run

    if world_from_environment() is not None:
        raise EnvironmentFault(
            "`inceptionctl study` was started as one of several ranks; it starts the ranks of its trainings itself",
            "start a single process",
        )
    if not is_study(request.recipe):
        raise RecipeError(
            f"recipe '{request.recipe}' is no study: it has no `arms`", "`inceptionctl recipes list` shows studies"
        )
    if is_run(request.folder):
        raise CheckpointError(f"{request.folder} is the directory of a run", "name a folder for the study with --output")
    loaded = load_study(request.recipe, request.settings)
    with stoppable("between two trainings of the study: nothing is lost"):
        if request.dry_run:
            shares(request.jobs, **request.ranks)
            return _plan(loaded, request)
        return _study(loaded, request)


def _plan(loaded: Study, request: StudyRequest) -> StudyPlan:
    from inceptionctl.study.cells import choose, reported_cells, tuning_cells, tuning_losses
    from inceptionctl.train.dry_run import training_cost

    tuning = tuning_cells(loaded, request.folder)
    best = choose(tuning_losses(tuning))
    # Before the tuning is done the best so far, or the first, stands for the one that will be chosen.
    first = {one.name: loaded.section.tune.values[0] for one in loaded.conditions if loaded.section.tune}
    reported = reported_cells(loaded, request.folder, first | best)
    opened = check_recipe(request.recipe, loaded, request.settings)  # a bundled study's data set may be elsewhere
    study_evaluations.check(loaded)
    here = ranks_of_each(request.gpus, request.cpu_ranks).size
    costs = {}
    for condition, (name, recipe) in zip(opened, loaded.first_recipes().items(), strict=True):
        check_batch(recipe, here)
        costs[name] = training_cost(recipe, condition)
    rows = [_row(cell, "tuning", known=True) for cell in tuning]
    rows += [_row(cell, "reported", known=all(one.is_done for one in tuning)) for cell in reported]
    rows = [{**row, **costs[row["condition"]]} for row in rows]
    return StudyPlan(rows, study_evaluations.planned(loaded, reported))


def _row(cell: Cell, purpose: str, *, known: bool) -> console.JsonObject:
    return {
        "purpose": purpose,
        "condition": cell.condition,
        "seed": cell.seed,
        "value": cell.value if known else None,
        "network": cell.recipe.model.name,
        "epochs": cell.recipe.train.epochs,
        "run": str(cell.run.path),
        "state": cell.contents.state if cell.run.path.exists() else "not started",
    }


def _study(loaded: Study, request: StudyRequest) -> Studied:
    from inceptionctl.storage import disk_errors
    from inceptionctl.study.cells import choose, tuning_cells, tuning_losses
    from inceptionctl.study.page import write_page
    from inceptionctl.study.result import result_of

    study_evaluations.check(loaded)
    folder = request.folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trainings = _trainings(loaded, request)
    _train_all(tuning_cells(loaded, folder), "tuning", request, trainings)
    tuning = tuning_cells(loaded, folder)
    left = [cell for cell in tuning if not cell.is_done]
    losses = tuning_losses(tuning)
    untuned = dict.fromkeys(cell.condition for cell in left)
    chosen = choose({condition: values for condition, values in losses.items() if condition not in untuned})
    cells = _reported(loaded, folder, chosen, untuned)
    if left:
        not_done = f"{counted(len(left), 'training')} of the tuning {'is' if len(left) == 1 else 'are'} not done"
        if trainings or not any(cell.run.path.exists() for cell in cells):
            raise _tune_first(not_done, request, trainings)
        console.warn(f"{not_done}, so {'; '.join(untuned)} cannot be reported yet", f"rerun: {_training_command(request)}")
    warn_of_tuning(loaded, losses, chosen)
    _train_all(cells, "training", request, trainings)
    cells = _reported(loaded, folder, chosen, untuned)

    def report(ensembles: EnsemblesResult | None) -> Studied:
        result = result_of(Path(request.recipe).stem, loaded, cells, tuning, chosen, ensembles)
        return Studied(result, write_page(result, loaded, cells, folder))

    try:
        ensembles = study_evaluations.ensembles(loaded, cells)
    except InceptionctlError:
        report(None)
        raise
    not_evaluated = study_evaluations.missing(loaded, cells)
    if trainings and not_evaluated:
        report(ensembles)  # an evaluation may fail, and is no reason to say nothing of the trainings
        study_evaluations.evaluate(loaded, not_evaluated, request, trainings)
        ensembles = study_evaluations.ensembles(loaded, cells)
    return report(ensembles)


def warn_of_tuning(loaded: Study, losses: dict[str, dict[float, list[float | None]]], chosen: dict[str, float]) -> None:
    """Say why chosen values may not be the best."""
    from inceptionctl.study.cells import doubts

    if loaded.section.tune:
        for doubt, hint in doubts(loaded.section.tune.key, losses, chosen).items():
            console.warn(doubt, hint)


def _reported(loaded: Study, folder: Path, chosen: dict[str, float], untuned: Collection[str]) -> list[Cell]:
    """The trainings that are reported; none is trained of a condition without a chosen value."""
    from inceptionctl.study.cells import reported_cells

    tuned, waiting = (
        replace(loaded, conditions=[one for one in loaded.conditions if (one.name in untuned) is wanted])
        for wanted in (False, True)
    )
    # The runs may hold trainings with a value that was chosen among fewer; those do not count, so they are not looked for there.
    return [*reported_cells(tuned, folder, chosen), *reported_cells(waiting, folder / "untuned", {})]


def _tune_first(not_done: str, request: StudyRequest, trainings: Trainings | None) -> ResumeLater:
    """The error of a study of which nothing can be trained or reported before its tuning is done."""
    again = _training_command(request)
    if trainings is None:
        return ResumeLater(f"{not_done}, and there is nothing to report", f"train first: {again}")
    if trainings.out_of_budget:
        return ResumeLater(f"the budget ended before the tuning: {not_done}, and there is nothing to report", f"rerun: {again}")
    return ResumeLater(not_done, f"rerun once the other commands have ended: {again}")


def _training_command(request: StudyRequest) -> str:
    """The command of a request, without --report-only."""
    return shlex.join(["inceptionctl", *replace(request, report_only=False).words])


def _trainings(loaded: Study, request: StudyRequest) -> Trainings | None:
    from inceptionctl.distributed.shares import shares
    from inceptionctl.stages.trainings import Trainings

    if request.report_only:
        return None
    again = _training_command(request)
    return Trainings(shares(request.jobs, **request.ranks), request.ranks, again, loaded.section.budget_hours)


def _train_all(cells: Sequence[Cell], what: str, request: StudyRequest, trainings: Trainings | None) -> None:
    missing = [cell for cell in cells if not cell.is_done]
    if trainings:
        trainings.learn(cells)
    if missing and trainings:
        _check(missing, request)
        trainings.run(cells, what)


def _check(cells: Sequence[Cell], request: StudyRequest) -> None:
    """Raise the problems of every arm before the first is trained."""
    here = ranks_of_each(request.gpus, request.cpu_ranks)
    for cell in {cell.condition: cell for cell in reversed(cells)}.values():
        check_inputs(cell.recipe, here, f"arms.{cell.condition}", begins=not cell.contents.step)
