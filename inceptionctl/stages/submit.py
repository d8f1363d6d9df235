"""`inceptionctl slurm submit`: a training, or each of an ensemble or a study, as a Slurm job that is requeued and resumes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.stages.checks import check_batch
from inceptionctl.stages.jobs import has_jobs, jobs_of, note_job

if TYPE_CHECKING:
    from inceptionctl.recipe import Study
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run
    from inceptionctl.train.preflight import Opened
    from inceptionctl.train.start import Start


@dataclass(frozen=True)
class SubmitRequest:
    """The arguments and options of `inceptionctl slurm submit`."""

    recipe: str
    """Bundled name or path, of one training or of an ensemble."""
    nodes: int
    time: str
    """Time limit of one start, in Slurm's forms: "12:00:00"."""
    settings: Sequence[str] = ()
    """As --set: "train.epochs=10"."""
    gpus_per_node: int | None = None
    """Either this or `cpu_ranks_per_node` is given."""
    cpu_ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    """8 with a GPU, else 1."""
    output: Path | None = None
    resume: str = "auto"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array: str | None = None
    container: str | None = None
    sbatch: Sequence[str] = ()
    """Any other options of sbatch, each several words if need be: "--mem=0 --exclusive"."""
    notice: int | None = None
    """Seconds before the time limit at which the job is signalled to save; 180, at most half of the limit."""
    give_up_after: int = 3
    """Give up after this many restarts in a row without a new checkpoint."""
    no_submit: bool = False
    dry_run: bool = False

    @property
    def ranks_per_node(self) -> int:
        """GPUs, or processes on the CPU. Raises RecipeError unless one of the two is given."""
        if (self.gpus_per_node is None) == (self.cpu_ranks_per_node is None):
            hint = "a rank is one GPU, or one process on the CPU"
            raise RecipeError("give either --gpus-per-node or --cpu-ranks-per-node", hint)
        return self.gpus_per_node or self.cpu_ranks_per_node or 0

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks train on the CPU."""
        return self.gpus_per_node is None


@dataclass(frozen=True)
class Submission:
    """What came of one training; neither job nor script where it is finished, or one of several and in the queue already."""

    run: Path
    job: str | None = None
    """The job's number, where one was submitted."""
    script: Path | None = None
    """The batch script, where one was written."""
    text: str | None = None
    """Of a dry run: what the script would be."""

    def to_json(self) -> console.JsonObject:
        """What `--json` prints."""
        run = str(self.run.absolute())
        if self.text is not None:
            return {"script": self.text, "run": run}
        job = {} if self.script and self.job is None else {"job": self.job}
        return {**job, "run": run, **({"script": str(self.script)} if self.script else {})}


def submit(request: SubmitRequest, *, on_each: Callable[[Submission], None] = lambda one: None) -> list[Submission]:
    """Write a batch script into the run directory and submit it; of an ensemble's recipe one for each member, of a study's for each training.

    `on_each` is called as soon as one is submitted. Raises RecipeError, DataError and CheckpointError for what a training would be refused
    for, before any job waits in the queue for it, and EnvironmentFault with sbatch's words when it refuses.
    """
    from inceptionctl.train.start import begins_anew

    trainings = _trainings(request)
    checked = [
        _check_inputs(request, recipe, begins=begins_anew(recipe, output, request.resume)) for recipe, output in trainings
    ]
    done = []
    for (recipe, output), images in zip(trainings, checked, strict=True):
        recipe = recipe.with_classes(len(images[0].classes)) if images else recipe
        done.append(_submit_one(request, recipe, output, images, several=len(trainings) > 1))
        on_each(done[-1])
    return done


def _trainings(request: SubmitRequest) -> list[tuple[Recipe, Path | None]]:
    """Recipe and run directory of the one training, or of each member of an ensemble, in a directory of its name."""
    from inceptionctl.recipe import Ensemble, Study, load_any

    loaded = load_any(request.recipe, request.settings)
    if isinstance(loaded, Study):
        return _of_study(loaded, request)
    if not isinstance(loaded, Ensemble):
        return [(_with_first_weights(request, loaded, request.output), request.output)]
    folder = request.output or Path("runs") / Path(request.recipe).stem
    members = ((member, folder / name) for name, member in loaded.members.items())
    return [(_with_first_weights(request, member, output), output) for member, output in members]


def _with_first_weights(request: SubmitRequest, recipe: Recipe, output: Path | None) -> Recipe:
    """What the weights of model.init_from expect; published ones are fetched here, since compute nodes may have no network."""
    from inceptionctl.stages.sources import fetch_first_weights
    from inceptionctl.train.inheritance import inherit
    from inceptionctl.train.start import begins_anew

    if begins_anew(recipe, output, request.resume):
        fetch_first_weights(recipe)
    return inherit(recipe, output)


def _of_study(loaded: Study, request: SubmitRequest) -> list[tuple[Recipe, Path | None]]:
    """The trainings that can be started now: those of the tuning until it is done, then those that are reported."""
    from inceptionctl.stages.study import warn_of_tuning
    from inceptionctl.study.cells import choose, reported_cells, tuning_cells, tuning_losses

    folder = request.output or Path("runs") / Path(request.recipe).stem
    cells = tuning_cells(loaded, folder)
    if all(cell.is_done for cell in cells):
        losses = tuning_losses(cells)
        chosen = choose(losses)
        warn_of_tuning(loaded, losses, chosen)
        cells = reported_cells(loaded, folder, chosen)
    else:
        console.say("the tuning comes first; submit the same study again once it is done")
    open_cells = ((cell.recipe, cell.run.path) for cell in cells if not cell.is_done)
    return [(_with_first_weights(request, recipe, output), output) for recipe, output in open_cells]


def _submit_one(
    request: SubmitRequest, recipe: Recipe, output: Path | None, images: Opened | None, *, several: bool
) -> Submission:
    from inceptionctl.distributed.slurm import submit as hand_over
    from inceptionctl.run import new_run_path
    from inceptionctl.train.lock import check_free
    from inceptionctl.train.start import RUNS, check_start, decide_start

    planned = (output or new_run_path(recipe, RUNS)).absolute()
    text = _script(request, recipe, planned, "recipe.yaml")  # an error in it comes before a run directory is made
    if request.dry_run:
        return Submission(planned, text=text)
    start = decide_start(recipe, output, request.resume)
    if start.finished:
        console.say(f"{start.run.path} is finished: nothing to train")
        return Submission(start.run.path)
    if _is_queued(start.run, several):
        return Submission(start.run.path)
    if not start.is_new:
        check_free(start.run)
        if images:
            check_start(start, recipe, *images)
    script = _write_script(request, recipe, start)
    if request.no_submit:
        return Submission(start.run.path, script=script)
    try:
        job = hand_over(script)
    except Exception:
        _discard_unsubmitted(start.run)
        raise
    note_job(start.run, job, request.nodes, request.ranks_per_node)
    return Submission(start.run.path, job, script)


def _script(request: SubmitRequest, recipe: Recipe, run: Path, recipe_file: str) -> str:
    from inceptionctl.distributed.slurm import batch_script

    return batch_script(
        run,
        Path.cwd(),
        sys.executable,
        request.time,
        request.nodes,
        request.ranks_per_node,
        request.cpus_per_rank or (1 if request.on_cpu else 8),
        on_cpu=request.on_cpu,
        notice_seconds=request.notice,
        give_up_after=request.give_up_after,
        array=request.array,
        container=request.container,
        mounts=_mounts(recipe, run),
        options={name: getattr(request, name) for name in ("partition", "account", "qos", "constraint")},
        extra=_words(request.sbatch),
        recipe=recipe_file,
    )


def _mounts(recipe: Recipe, run: Path) -> tuple[Path, ...]:
    from inceptionctl.train.inheritance import first_weights

    first = first_weights(recipe)
    return (run, recipe.data.root_path.absolute(), *([first.absolute()] if first and first.exists() else []))


def _write_script(request: SubmitRequest, recipe: Recipe, start: Start) -> Path:
    from inceptionctl.recipe import dump_recipe
    from inceptionctl.storage import write_atomically
    from inceptionctl.train.start import keeps_recipe

    run = start.run.path.absolute()
    script = run / "slurm" / "job.sh"
    script.parent.mkdir(exist_ok=True)
    # The job may still refuse this recipe, so it is not the run's yet: its first start writes it there.
    changed = not keeps_recipe(start.run, recipe)
    if changed:
        write_atomically(run / "slurm" / "recipe.yaml", dump_recipe(recipe))
    write_atomically(script, _script(request, recipe, run, "slurm/recipe.yaml" if changed else "recipe.yaml"))
    return script


def _check_inputs(request: SubmitRequest, recipe: Recipe, *, begins: bool) -> Opened | None:
    """Raise all problems before a job waits in the queue; return the images, if they are on this machine."""
    from inceptionctl.train.preflight import faults, refuse

    check_batch(recipe, request.nodes * request.ranks_per_node)
    if recipe.data.decodes_on_gpu and request.on_cpu:
        raise RecipeError(f"data.decode is `{recipe.data.decode}`, but the ranks have no GPU", "set data.decode to auto or cpu")
    root = recipe.data.root_path
    if not root.exists():
        console.warn(f"data.root {root} is not on this machine", "it must be on the nodes; it was not checked")
    found, images = faults(recipe, begins=begins, data=root.exists())
    refuse(recipe.model.name, found)
    return images


def _words(options: Sequence[str]) -> list[str]:
    words: list[str] = []
    for option in options:
        try:
            words += shlex.split(option)
        except ValueError as error:
            raise RecipeError(f"--sbatch {option!r}: {error}", "close the quotes") from None
    return words


def _discard_unsubmitted(run: Run) -> None:
    """Remove a run directory that no job will train."""
    from inceptionctl.run import discard_unused, visible

    if not has_jobs(run):
        for name in ("job.sh", "recipe.yaml"):
            (run.path / "slurm" / name).unlink(missing_ok=True)
        if not visible(run.path / "slurm"):
            (run.path / "slurm").rmdir()
            discard_unused(run)


def _is_queued(run: Run, several: bool) -> bool:
    """Whether a job of the run waits or runs, which is said; an error unless the run is one of several."""
    from inceptionctl.distributed.slurm import in_queue, queue

    for job in queue(jobs_of(run)):
        if in_queue(job):
            message = f"{run.path} already has job {job['job']} in the queue ({job['state']})"
            if not several:
                hint = f"wait for it, or end it with: inceptionctl slurm cancel {shlex.quote(str(run.path))}"
                raise CheckpointError(message, hint)
            console.say(message)
            return True
    return False
