"""`inceptionctl slurm`: submit a training as a job that goes on by itself, look at it, cancel it."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, RunArgument, Settings
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.stages.checks import check_batch
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run
    from inceptionctl.train.images import Opened

app = typer.Typer(help="Train as a Slurm job that saves, is requeued and resumes by itself.", no_args_is_help=True, cls=Group)


@app.command()
def submit(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    time: Annotated[str, typer.Option(metavar="H:M:S", help="Time limit of one start, in Slurm's forms.")],
    settings: Settings = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs, and so ranks, on each node.")] = None,
    cpu_ranks_per_node: Annotated[int | None, typer.Option(min=1, help="Ranks on the CPU of each node instead.")] = None,
    cpus_per_rank: Annotated[int | None, typer.Option(min=1, help="Cores of a rank: 8 beside a GPU, else 1.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; runs/DATE_MODEL_FINGERPRINT by default.")] = None,
    resume: Annotated[str, typer.Option(metavar="auto|never|PATH", help="As in `inceptionctl train`.")] = "auto",
    partition: Annotated[str | None, typer.Option(help="sbatch's option of this name; so are the next three.")] = None,
    account: Annotated[str | None, typer.Option()] = None,
    qos: Annotated[str | None, typer.Option()] = None,
    constraint: Annotated[str | None, typer.Option()] = None,
    array: Annotated[
        str | None, typer.Option(metavar="1-N%1", help="N starts one after the other, for sites that requeue nothing.")
    ] = None,
    container: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Train in a container: FILE.sif by Apptainer, others by Pyxis.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTIONS", help='Any other options of sbatch: --sbatch "--mem=0 --exclusive".')
    ] = None,
    notice: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="Before the time limit, for saving: 180, at most half of it.")
    ] = None,
    give_up_after: Annotated[int, typer.Option(min=1, help="Restarts in succession without a new checkpoint.")] = 3,
    no_submit: Annotated[bool, typer.Option("--no-submit", help="Make the run directory and its script, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Write a batch script into the run directory and submit it.

    The job trains on one rank a GPU, saves before its time limit or when it is preempted, is requeued and goes on at the next sample.
    Of an ensemble's recipe each member becomes a job of its own.
    """
    from inceptionctl.distributed.slurm import batch_script
    from inceptionctl.train.start import begins_anew

    trainings = _trainings(recipe, settings or (), output)
    ranks_per_node = _ranks_per_node(gpus_per_node, cpu_ranks_per_node)
    images = [
        _check_inputs(loaded, nodes * ranks_per_node, on_cpu=gpus_per_node is None, begins=begins_anew(loaded, folder, resume))
        for loaded, folder in trainings
    ]

    def script_for(loaded: Recipe, run: Path, recipe_file: str) -> str:
        return batch_script(
            run,
            Path.cwd(),
            sys.executable,
            time,
            nodes,
            ranks_per_node,
            cpus_per_rank or (8 if gpus_per_node else 1),
            on_cpu=gpus_per_node is None,
            notice_seconds=notice,
            give_up_after=give_up_after,
            array=array,
            container=container,
            mounts=(run, loaded.data.root_path.absolute()),
            options={"partition": partition, "account": account, "qos": qos, "constraint": constraint},
            extra=_words(sbatch or ()),
            recipe=recipe_file,
        )

    size, several = {"nodes": nodes, "ranks_per_node": ranks_per_node}, len(trainings) > 1
    told = [
        _submit_one(*one, opened, resume, script_for, size, several, no_submit, dry_run, as_json)
        for one, opened in zip(trainings, images, strict=True)
    ]
    if as_json:
        console.print_json(told if several else told[0])
    if several and not dry_run:
        words = [word for setting in settings or () for word in ("--set", setting)]
        words += ["--output", str(output)] if output else []
        console.say(f"when all are trained: {shlex.join(['inceptionctl', 'ensemble', recipe, *words])}")


def _trainings(recipe: str, settings: Sequence[str], output: Path | None) -> list[tuple[Recipe, Path | None]]:
    """What is to be trained, and where: one training, or each member of an ensemble in a run directory of its name."""
    from inceptionctl.recipe import Ensemble, load_any
    from inceptionctl.train.inheritance import inherit

    loaded = load_any(recipe, settings)
    if not isinstance(loaded, Ensemble):
        return [(inherit(loaded, output), output)]
    folder = output or Path("runs") / Path(recipe).stem
    return [(inherit(member, folder / name), folder / name) for name, member in loaded.members.items()]


def _submit_one(
    recipe: Recipe,
    output: Path | None,
    images: Opened | None,
    resume: str,
    script_for: Callable[[Recipe, Path, str], str],
    size: dict[str, int],
    several: bool,
    no_submit: bool,
    dry_run: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Hand one training over; what --json tells of it: `job` is null where it is finished, or one of several and in the queue already."""
    from inceptionctl.distributed.slurm import submit as hand_over
    from inceptionctl.recipe import dump_recipe
    from inceptionctl.run import append_json, new_run_path, write_atomically
    from inceptionctl.train.lock import check_free
    from inceptionctl.train.start import RUNS, check_start, decide_start, keeps_recipe

    planned = (output or new_run_path(recipe, RUNS)).absolute()
    text = script_for(recipe, planned, "recipe.yaml")  # whatever is wrong with it is said before a run directory is made
    if dry_run:
        if not as_json:
            sys.stdout.write(text)
        return {"script": text, "run": str(planned)}
    start = decide_start(recipe, output, resume)
    if start.finished:
        console.say(f"{start.run.path} is finished: nothing to train")
        return {"job": None, "run": str(start.run.path.absolute())}
    if _is_queued(start.run, several):
        return {"job": None, "run": str(start.run.path.absolute())}
    if not start.is_new:
        check_free(start.run)
        if images:
            check_start(start, recipe, *images)
    run = start.run.path.absolute()
    script = run / "slurm" / "job.sh"
    script.parent.mkdir(exist_ok=True)
    # What the job may yet be refused for must not be the recipe of the run: its first start keeps it there.
    changed = not keeps_recipe(start.run, recipe)
    if changed:
        write_atomically(run / "slurm" / "recipe.yaml", dump_recipe(recipe))
    write_atomically(script, script_for(recipe, run, "slurm/recipe.yaml" if changed else "recipe.yaml"))
    if no_submit:
        if not as_json:
            console.say(f"submit it with: sbatch {shlex.quote(str(script))}")
        return {"run": str(run), "script": str(script)}
    try:
        job = hand_over(script)
    except Exception:
        _take_back(start.run)
        raise
    submitted = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_json(_jobs_file(start.run), {"job": job, "submitted": submitted, **size})
    if not as_json:
        ranks = f"{size['nodes']} x {counted(size['ranks_per_node'], 'rank')}"
        console.say(f"job {job} trains {start.run.path} on {ranks}; its script is {script}")
        for verb in ("status", "logs", "cancel"):
            console.say(f"next: inceptionctl slurm {verb} {shlex.quote(str(start.run.path))}")
    return {"job": job, "run": str(run), "script": str(script)}


def _ranks_per_node(gpus: int | None, cpu_ranks: int | None) -> int:
    if (gpus is None) == (cpu_ranks is None):
        raise RecipeError("give either --gpus-per-node or --cpu-ranks-per-node", "a rank is one GPU, or one process on the CPU")
    return gpus or cpu_ranks or 0


def _check_inputs(recipe: Recipe, ranks: int, *, on_cpu: bool, begins: bool) -> Opened | None:
    """Find what is wrong before a job waits in the queue for it; the images, where they are on this machine."""
    from inceptionctl.train.checking import faults, refuse

    check_batch(recipe, ranks)
    if recipe.data.decodes_on_gpu and on_cpu:
        raise RecipeError(f"data.decode is `{recipe.data.decode}`, but the ranks have no GPU", "set data.decode to auto or cpu")
    root = recipe.data.root_path
    if not root.exists():
        console.warn(f"data.root {root} is not on this machine", "it must be on the nodes; nothing about it was checked here")
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


def _jobs_file(run: Run) -> Path:
    return run.path / "slurm" / "jobs.json"


def _take_back(run: Run) -> None:
    """A run directory that no job will ever train is not left behind."""
    from inceptionctl.run import discard_unused, visible

    if not _jobs_file(run).exists():
        for name in ("job.sh", "recipe.yaml"):
            (run.path / "slurm" / name).unlink(missing_ok=True)
        if not visible(run.path / "slurm"):
            (run.path / "slurm").rmdir()
            discard_unused(run)


def _is_queued(run: Run, several: bool) -> bool:
    """Whether a run's job waits or runs, which is told; an error unless the run is one of several."""
    from inceptionctl.distributed.slurm import in_queue, queue

    for job in queue(_jobs(run)):
        if in_queue(job):
            message = f"{run.path} has job {job['job']} in the queue already ({job['state']})"
            if not several:
                hint = f"wait for it, or end it with: inceptionctl slurm cancel {shlex.quote(str(run.path))}"
                raise CheckpointError(message, hint)
            console.say(message)
            return True
    return False


def _jobs(run: Run) -> list[str]:
    """Numbers of all jobs of a run, oldest first: those submitted from here, and those that somebody else's sbatch started."""
    from inceptionctl.run_contents import read_run

    file = _jobs_file(run)
    try:
        entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        submitted = [str(entry["job"]) for entry in entries]
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{file} is not a list of jobs", "somebody changed it; delete it to go on") from None
    slurm = [start.get("slurm") for start in read_run(run).starts]
    return list(
        dict.fromkeys([*submitted, *(str(entry["job"]) for entry in slurm if isinstance(entry, dict) and "job" in entry)])
    )


def _jobs_of(run: Run) -> list[str]:
    jobs = _jobs(run)
    if not jobs:
        raise CheckpointError(
            f"{run.path} was never given to Slurm",
            f"inceptionctl slurm submit {shlex.quote(str(run.recipe_file))} --output {shlex.quote(str(run.path))} --nodes N ...",
        )
    return jobs


@app.command()
def status(run: RunArgument, as_json: Json = False) -> None:
    """Show a run's jobs in the queue, and how far it is."""
    from inceptionctl.distributed.slurm import queue
    from inceptionctl.run import open_run
    from inceptionctl.run_contents import read_run

    opened = open_run(run)
    jobs = _jobs_of(opened)
    known = queue(jobs)
    found = read_run(opened)
    result: dict[str, Any] = {
        "run": str(opened.path),
        "state": found.state,
        "step": found.step,
        "total_steps": found.progress.get("total_steps"),
        "jobs": jobs,
        "queue": known,
    }
    if as_json:
        console.print_json(result)
        return
    total = "?" if result["total_steps"] is None else result["total_steps"]
    console.print_pairs(
        str(opened.path), [("state", found.state), ("step", f"{found.step} of {total}"), ("jobs", ", ".join(jobs))]
    )
    if known:
        names = [name.replace("_", " ") for name in known[0]]
        console.print_table("In Slurm", names, [list(job.values()) for job in known])
    else:
        console.say(f"Slurm no longer knows job {jobs[-1]}; `sacct -j {jobs[-1]}` does where there is accounting")


@app.command()
def cancel(run: RunArgument, as_json: Json = False) -> None:
    """Cancel a run's jobs; the ranks are told to save first."""
    from inceptionctl.distributed.slurm import cancel as cancel_jobs
    from inceptionctl.distributed.slurm import in_queue, queue
    from inceptionctl.run import open_run

    opened = open_run(run)
    alive = [job["job"] for job in queue(_jobs_of(opened)) if in_queue(job)]
    if alive:
        cancel_jobs(alive)
    if as_json:
        console.print_json({"run": str(opened.path), "cancelled": alive})
    if not alive:
        console.say(f"no job of {opened.path} is in the queue: nothing to cancel")
        return
    console.say(f"cancelled job {', '.join(alive)}; resume the run with another `inceptionctl slurm submit`")


@app.command()
def logs(
    run: RunArgument,
    lines: Annotated[int, typer.Option(min=1, help="The last N lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what comes, until Ctrl-C.")] = False,
) -> None:
    """Print what the run's newest job has said."""
    from inceptionctl.run import open_run

    opened = open_run(run)
    job = _jobs_of(opened)[-1]
    file = opened.path.absolute() / "slurm" / f"{job}.out"
    if not file.exists() and not follow:
        raise CheckpointError(f"job {job} has said nothing yet", f"inceptionctl slurm status {shlex.quote(str(opened.path))}")
    sys.stdout.flush()
    os.execvp("tail", ["tail", f"--lines={lines}", *(["--follow=name", "--retry"] if follow else []), "--", str(file)])
