"""The Slurm jobs of a run: their numbers, what the queue says of them, their output."""

from __future__ import annotations

import datetime
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import CheckpointError

if TYPE_CHECKING:
    from inceptionctl.console import JsonObject
    from inceptionctl.run import Run


def status(path: Path) -> JsonObject:
    """Jobs of the run at `path`, what squeue says of them (`queue`), and how far the training is.

    Raises CheckpointError when there is no run or it never had a job, EnvironmentFault when Slurm cannot be asked.
    """
    from inceptionctl.distributed.slurm import queue
    from inceptionctl.run import open_run
    from inceptionctl.run_contents import read_run

    run = open_run(path)
    jobs = _jobs_or_error(run)
    known = queue(jobs)
    found = read_run(run)
    return {
        "run": str(run.path),
        "state": found.state,
        "step": found.step,
        "total_steps": found.progress.get("total_steps"),
        "jobs": jobs,
        "queue": known,
    }


def cancel(path: Path) -> JsonObject:
    """Cancel the jobs of the run at `path` that are in the queue; {"run": ..., "cancelled": their numbers}. Raises as `status` does."""
    from inceptionctl.distributed.slurm import cancel as cancel_jobs
    from inceptionctl.distributed.slurm import in_queue, queue
    from inceptionctl.run import open_run

    run = open_run(path)
    alive = [job["job"] for job in queue(_jobs_or_error(run)) if in_queue(job)]
    if alive:
        cancel_jobs(alive)
    return {"run": str(run.path), "cancelled": alive}


def log_file(path: Path, *, may_come: bool = False) -> Path:
    """The output of the newest job of the run at `path`.

    Raises CheckpointError when there is no run, it never had a job, or, unless it `may_come`, the job has printed nothing yet.
    """
    from inceptionctl.run import open_run

    run = open_run(path)
    job = _jobs_or_error(run)[-1]
    file = run.path.absolute() / "slurm" / f"{job}.out"
    if not file.exists() and not may_come:
        raise CheckpointError(
            f"job {job} has not printed anything yet", f"inceptionctl slurm status {shlex.quote(str(run.path))}"
        )
    return file


def jobs_of(run: Run) -> list[str]:
    """Numbers of all jobs of a run, oldest first: those submitted from here, and those that somebody else's sbatch started."""
    from inceptionctl.run_contents import read_run

    file = _jobs_file(run)
    try:
        entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        submitted = [str(entry["job"]) for entry in entries]
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{file} is not a list of jobs", "it was changed by hand; delete it to continue") from None
    slurm = [start.get("slurm") for start in read_run(run).starts]
    return list(
        dict.fromkeys([*submitted, *(str(entry["job"]) for entry in slurm if isinstance(entry, dict) and "job" in entry)])
    )


def has_jobs(run: Run) -> bool:
    """Whether a job of the run was ever submitted from here."""
    return _jobs_file(run).exists()


def note_job(run: Run, job: str, nodes: int, ranks_per_node: int) -> None:
    """Add a job that was just submitted to the run's list."""
    from inceptionctl.run import append_json

    submitted = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_json(_jobs_file(run), {"job": job, "submitted": submitted, "nodes": nodes, "ranks_per_node": ranks_per_node})


def _jobs_file(run: Run) -> Path:
    return run.path / "slurm" / "jobs.json"


def _jobs_or_error(run: Run) -> list[str]:
    jobs = jobs_of(run)
    if not jobs:
        raise CheckpointError(
            f"{run.path} was never submitted to Slurm",
            f"inceptionctl slurm submit {shlex.quote(str(run.recipe_file))} --output {shlex.quote(str(run.path))} --nodes N ...",
        )
    return jobs
