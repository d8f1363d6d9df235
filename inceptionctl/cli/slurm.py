"""`inceptionctl slurm`: train as a job that is requeued and resumes; show and cancel jobs."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, RecipeArgument, RunArgument, RunOutput, Settings, requested
from inceptionctl.stages import jobs
from inceptionctl.stages.commands import command_words
from inceptionctl.stages.submit import Submission, SubmitRequest
from inceptionctl.stages.submit import submit as submit_jobs
from inceptionctl.words import counted

app = typer.Typer(help="Train as a Slurm job that saves, is requeued and resumes by itself.", no_args_is_help=True, cls=Group)


@app.command()
def submit(
    recipe: RecipeArgument,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")],
    time: Annotated[str, typer.Option(metavar="H:M:S", help="Time limit of one start, in any format of Slurm.")],
    settings: Settings = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs per node, one rank each.")] = None,
    cpu_ranks_per_node: Annotated[int | None, typer.Option(min=1, help="CPU ranks per node, instead of GPUs.")] = None,
    cpus_per_rank: Annotated[int | None, typer.Option(min=1, help="CPU cores per rank; 8 with a GPU, else 1.")] = None,
    output: RunOutput = None,
    resume: Annotated[str, typer.Option(metavar="auto|never|PATH", help="As in `inceptionctl train`.")] = "auto",
    partition: Annotated[str | None, typer.Option(help="Passed on to sbatch, as are the next three.")] = None,
    account: Annotated[str | None, typer.Option()] = None,
    qos: Annotated[str | None, typer.Option()] = None,
    constraint: Annotated[str | None, typer.Option()] = None,
    array: Annotated[
        str | None, typer.Option(metavar="1-N%1", help="N starts one after the other, for sites without requeueing.")
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Train in a container: FILE.sif with Apptainer, any other image with Pyxis."),
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTIONS", help='Other options for sbatch: --sbatch "--mem=0 --exclusive".')
    ] = None,
    notice: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Save this long before the time limit; 180 by default, at most half of it."
        ),
    ] = None,
    give_up_after: Annotated[int, typer.Option(min=1, help="Give up after so many restarts without a new checkpoint.")] = 3,
    no_submit: Annotated[bool, typer.Option("--no-submit", help="Create the run directory and the script, and exit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script, and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Write a batch script into the run directory and submit it.

    The job trains with one rank per GPU, saves before its time limit or when it is preempted, is requeued and resumes at the next sample.
    Each member of an ensemble recipe becomes a job of its own.
    """
    request = requested(locals(), SubmitRequest)
    done = submit_jobs(request, on_each=(lambda one: None) if as_json else (lambda one: _print_submission(one, request)))
    if as_json:
        told = [one.to_json() for one in done]
        console.print_json(told if len(told) > 1 else told[0])
    if len(done) > 1 and not dry_run:
        words = command_words("ensemble", recipe, settings=settings or (), options={"output": output})
        console.say(f"when all are trained: {shlex.join(['inceptionctl', *words])}")


def _print_submission(one: Submission, request: SubmitRequest) -> None:
    if one.text is not None:
        sys.stdout.write(one.text)
    elif one.job:
        ranks = f"{request.nodes} x {counted(request.ranks_per_node, 'rank')}"
        console.say(f"job {one.job} trains {one.run} on {ranks}; its script is {one.script}")
        for verb in ("status", "logs", "cancel"):
            console.say(f"next: inceptionctl slurm {verb} {shlex.quote(str(one.run))}")
    elif one.script:
        console.say(f"submit it with: sbatch {shlex.quote(str(one.script))}")


@app.command()
def status(run: RunArgument, as_json: Json = False) -> None:
    """Show a run's jobs in the queue, and its progress."""
    found = jobs.status(run)
    if as_json:
        console.print_json(found)
        return
    total = "?" if found["total_steps"] is None else found["total_steps"]
    pairs = [("state", found["state"]), ("step", f"{found['step']} of {total}"), ("jobs", ", ".join(found["jobs"]))]
    console.print_pairs(found["run"], pairs)
    queue, newest = found["queue"], found["jobs"][-1]
    if queue:
        console.print_table("In Slurm", [name.replace("_", " ") for name in queue[0]], [list(job.values()) for job in queue])
    else:
        console.say(f"Slurm no longer lists job {newest}; if accounting is on, `sacct -j {newest}` does")


@app.command()
def cancel(run: RunArgument, as_json: Json = False) -> None:
    """Cancel a run's jobs; the ranks save first."""
    found = jobs.cancel(run)
    if as_json:
        console.print_json(found)
    if not found["cancelled"]:
        console.say(f"no job of {found['run']} is in the queue: nothing to cancel")
        return
    console.say(f"cancelled job {', '.join(found['cancelled'])}; resume the run with another `inceptionctl slurm submit`")


@app.command()
def logs(
    run: RunArgument,
    lines: Annotated[int, typer.Option(min=1, help="Number of last lines to print.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")] = False,
) -> None:
    """Print the output of the run's newest job."""
    file = jobs.log_file(run, may_come=follow)
    sys.stdout.flush()
    os.execvp("tail", ["tail", f"--lines={lines}", *(["--follow=name", "--retry"] if follow else []), "--", str(file)])
