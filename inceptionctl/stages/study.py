"""`inceptionctl study`: train what a study's recipe compares, and report it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import DivergedError, EnvironmentFault, RanksEndedError, RecipeError, ResumeLater
from inceptionctl.stages import study_evaluations
from inceptionctl.stages.checks import check_batch, check_inputs, check_recipe, ranks_of_each
from inceptionctl.stages.commands import command_words
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.recipe.study_recipe import Study
    from inceptionctl.study.cells import Cell
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
        options = {**self.ranks, "output": self.output, "report_only": self.report_only}
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
    """Run the trainings of a study that are missing, one after the other, and write its page; a dry run only tells what there is.

    Several of these commands, on GPUs or hosts of their own, share the work: each passes over what another trains. Raises RecipeError
    for a study that cannot be run, CheckpointError where its folder holds another one, ResumeLater after a signal, and RanksEndedError when
    a training failed. One that diverged or died is a result.
    """
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment
    from inceptionctl.recipe.study_recipe import is_study, load_study

    if world_from_environment() is not None:
        raise EnvironmentFault(
            "`inceptionctl study` was started as one of several ranks; it starts the ranks of its trainings itself",
            "start a single process",
        )
    if not is_study(request.recipe):
        raise RecipeError(
            f"recipe '{request.recipe}' is no study: it has no `arms`", "`inceptionctl recipes list` shows studies"
        )
    loaded = load_study(request.recipe, request.settings)
    with stoppable("between two trainings of the study: nothing is lost"):
        if request.dry_run:
            return _plan(loaded, request)
        return _study(loaded, request)


def _plan(loaded: Study, request: StudyRequest) -> StudyPlan:
    from inceptionctl.study.cells import choose, reported_cells, tuning_cells, tuning_losses
    from inceptionctl.train.dry_run import training_cost

    tuning = tuning_cells(loaded, request.folder)
    chosen = choose(tuning_losses(tuning)) if all(cell.is_done for cell in tuning) else {}
    # Before the tuning is done its first value stands for the one that will be chosen.
    assumed = chosen or {one.name: loaded.section.tune.values[0] for one in loaded.conditions if loaded.section.tune}
    reported = reported_cells(loaded, request.folder, assumed)
    opened = check_recipe(request.recipe, loaded, request.settings)  # a bundled study's data set may be elsewhere
    here = ranks_of_each(request.gpus, request.cpu_ranks).size
    costs = {}
    for condition, (name, recipe) in zip(opened, loaded.first_recipes().items(), strict=True):
        check_batch(recipe, here)
        costs[name] = training_cost(recipe, condition)
    rows = [_row(cell, "tuning", known=True) for cell in tuning]
    rows += [_row(cell, "reported", known=bool(chosen) or not tuning) for cell in reported]
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
    from inceptionctl.study.cells import choose, reported_cells, tuning_cells, tuning_losses
    from inceptionctl.study.page import write_page
    from inceptionctl.study.result import result_of

    study_evaluations.check(loaded)
    folder = request.folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _train_all(tuning_cells(loaded, folder), "tuning", request)
    tuning = tuning_cells(loaded, folder)
    losses = tuning_losses([cell for cell in tuning if cell.is_done])
    chosen = choose(losses) if all(cell.is_done for cell in tuning) else {}
    if tuning and not chosen:
        left = sum(not cell.is_done for cell in tuning)
        raise ResumeLater(
            f"{counted(left, 'training')} of the tuning {'is' if left == 1 else 'are'} not done",
            f"rerun once the other commands have ended: {shlex.join(['inceptionctl', *request.words])}",
        )
    _train_all(reported_cells(loaded, folder, chosen), "training", request)
    cells = reported_cells(loaded, folder, chosen)
    ensembles = study_evaluations.ensembles(loaded, cells, request)
    result = result_of(Path(request.recipe).stem, loaded, cells, losses, chosen, ensembles)
    return Studied(result, write_page(result, loaded, cells, folder))


def _train_all(cells: Sequence[Cell], what: str, request: StudyRequest) -> None:
    missing = [cell for cell in cells if not cell.is_done]
    if not missing or request.report_only:
        return
    _check(missing, request)
    for number, cell in enumerate(cells, start=1):
        # Looked at now, not before: another of these commands may have trained it meanwhile.
        now = replace(cell)
        if now.is_done:
            continue
        if now.contents.is_running:
            console.say(f"{cell.name}: trained by {now.contents.holder}; passed over")
            continue
        console.say(f"{what} {number} of {len(cells)}: {cell.name}")
        _train(cell, request)


def _check(cells: Sequence[Cell], request: StudyRequest) -> None:
    """Raise the problems of every arm before the first is trained."""

    here = ranks_of_each(request.gpus, request.cpu_ranks)
    for cell in {cell.condition: cell for cell in reversed(cells)}.values():
        check_inputs(cell.recipe, here, f"arms.{cell.condition}", begins=not cell.contents.step)


def _train(cell: Cell, request: StudyRequest) -> None:
    from inceptionctl.distributed.stage import run_stage
    from inceptionctl.recipe import dump_recipe
    from inceptionctl.storage import disk_errors, write_atomically

    with disk_errors(cell.recipe_file):
        cell.recipe_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cell.recipe_file, dump_recipe(cell.recipe))
    code = run_stage(command_words("train", cell.recipe_file, options={"output": cell.run.path, **request.ranks}))
    again = f"resume with: {shlex.join(['inceptionctl', *request.words])}"
    if code == ResumeLater.exit_code:
        raise ResumeLater(f"stopped in the training of {cell.name}", again)
    if code == DivergedError.exit_code:
        console.say(f"{cell.name}: diverged or died; this is a result")
    elif code:
        console.say(f"the training of {cell.name} ended with exit code {code}; once that is fixed, {again}")
        raise RanksEndedError(code)
