"""Slurm: the text of a batch script that trains, goes on and gives up by itself; and its queue, asked through its own commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inceptionctl.distributed.local import CPU_ALLOCATOR
from inceptionctl.errors import EnvironmentFault, RecipeError

NOTICE_SECONDS = 180
# Exit codes of a training that would end in the same way again: a bug, recipe, data, checkpoint, divergence (errors.py).
FINAL_CODES = (1, 2, 3, 5, 6)
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
# What squeue is asked for, and our names of it.
COLUMNS = {
    "JobID": "job",
    "State": "state",
    "Reason": "reason",
    "TimeUsed": "time_used",
    "TimeLimit": "time_limit",
    "NodeList": "nodes",
    "StartTime": "start",
    "RestartCnt": "restarts",
}


def batch_script(
    run: Path,
    directory: Path,
    python: str,
    time: str,
    nodes: int,
    ranks_per_node: int,
    cpus_per_rank: int,
    on_cpu: bool,
    notice_seconds: int | None = None,
    give_up_after: int = 3,
    array: str | None = None,
    container: str | None = None,
    mounts: Sequence[Path] = (),
    options: Mapping[str, str | None] | None = None,
    extra: Sequence[str] = (),
    recipe: str = "recipe.yaml",
) -> str:
    """The batch script that trains `run` (absolute) by the file `recipe` in it, from `directory`, one rank a task.

    `notice_seconds` before the time limit the ranks are told to save; by default 180, at most half of `time`. `options` are
    sbatch's own, those that are None left out; `extra` are words for sbatch as they are, which come last and so win.
    Raises RecipeError for what Slurm could not take.
    """
    _check_path(run)
    _check_path(directory)
    limit = seconds_of(time)
    notice = min(NOTICE_SECONDS, limit // 2) if notice_seconds is None else notice_seconds
    if notice >= limit:
        raise RecipeError(
            f"--notice {notice}: the time limit of {time} is {limit} s", "give a longer --time or a shorter --notice"
        )
    if array is not None and not re.fullmatch(r"\d+-\d+%1", array):
        raise RecipeError(
            f"--array {array!r}: tasks of an array go on in one run, one after the other", "write it as --array 1-10%1"
        )
    resources = {
        "job-name": run.name,
        "nodes": str(nodes),
        "ntasks-per-node": str(ranks_per_node),
        "gpus-per-node": None if on_cpu else str(ranks_per_node),
        "cpus-per-task": str(cpus_per_rank),
        "time": time,
        "array": array,
        **(options or {}),
    }
    text: str = _template().render(
        run=shlex.quote(str(run)),
        file=shlex.quote(str(run / "slurm" / "job.sh")),
        resources=[(name, quoted(value)) for name, value in resources.items() if value is not None],
        directory=quoted(str(directory)),
        # Slurm fills in %A and %j; a % of the path itself is doubled.
        output=quoted(f"{run}/slurm/".replace("%", "%%") + ("%A" if array else "%j") + ".out"),
        notice=notice,
        extra=" ".join(map(quoted, extra)),
        give_up=give_up_after,
        single=nodes * ranks_per_node == 1,
        on_cpu=on_cpu,
        allocator=" ".join(f"{name}={value}" for name, value in CPU_ALLOCATOR.items()),
        patience=120,
        command=" \\\n    ".join([*_container(container, directory, mounts, python), TRAIN.format(recipe=recipe)]),
        final="|".join(map(str, FINAL_CODES)),
        array=array,
    )
    return text


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("inceptionctl.distributed", "")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True).get_template("job.sh.j2")


TRAIN = 'train "$run/{recipe}" --output "$run" --resume auto'


def _container(image: str | None, directory: Path, mounts: Sequence[Path], python: str) -> list[str]:
    """The words before `train`: this Python, or the `inceptionctl` of an image. scontrol is only needed outside, in the script."""
    if image is None:
        return [f"{shlex.quote(python)} -P -m inceptionctl"]
    places = list(dict.fromkeys(str(path) for path in (directory, *mounts)))
    odd = [place for place in places if "," in place or ":" in place]
    if odd:
        raise RecipeError(f"{odd[0]!r} cannot be mounted in a container: it holds a comma or a colon", "choose another place")
    where = shlex.quote(str(directory))
    if image.endswith(".sif"):
        bound = shlex.quote(",".join(places))
        return [f"apptainer exec --nv --pwd {where} --bind {bound}", f"{shlex.quote(image)} inceptionctl"]
    bound = shlex.quote(",".join(f"{place}:{place}" for place in places))
    return [f"--container-image={shlex.quote(image)} --container-workdir={where}", f"--container-mounts={bound} inceptionctl"]


def _check_path(path: Path) -> None:
    for name, bad in (("a line break", "\n"), ("a backslash", "\\")):
        if bad in str(path):
            raise RecipeError(
                f"{str(path)!r} holds {name}, which Slurm cannot take in a file's name", "choose another --output"
            )


def quoted(word: str) -> str:
    """A word of an #SBATCH line. Raises RecipeError for a line break."""
    if "\n" in word:
        raise RecipeError(f"{word!r} holds a line break, which sbatch cannot take", "leave it out")
    return shlex.quote(word)


def seconds_of(time: str) -> int:
    """Seconds of a time limit in Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. Raises RecipeError for anything else and for 0."""
    match = TIME.fullmatch(time)
    if not match:
        raise RecipeError(f"--time {time!r} is not a time", "minutes, H:M:S or days-H:M:S, such as --time 12:00:00")
    numbers = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise RecipeError(f"--time {time} is no time at all", "give the time that the training may take, such as 12:00:00")
    return total


def submit(script: Path) -> str:
    """Hand a script to sbatch; the job's number. Raises EnvironmentFault with sbatch's words when it refuses."""
    answer = _ask("sbatch", "--parsable", str(script))
    if answer.returncode:
        raise EnvironmentFault(
            f"sbatch refuses {script}:\n  " + "\n  ".join(answer.stderr.strip().splitlines()),
            "`sinfo` shows the partitions, `sacctmgr show assoc user=$USER` the accounts; other options go through --sbatch",
        )
    return answer.stdout.strip().partition(";")[0]


def queue(jobs: Sequence[str]) -> list[dict[str, str]]:
    """What squeue knows of jobs, a dictionary with the names of COLUMNS each; those that Slurm has forgotten are left out."""
    found: list[dict[str, str]] = []
    for job in jobs:
        answer = _ask(
            "squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=" + ",".join(f"{c}:|" for c in COLUMNS)
        )
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise EnvironmentFault(
                f"squeue: {answer.stderr.strip()}", "ask again on a machine from which the cluster is reached"
            )
        for line in answer.stdout.splitlines():
            found.append(dict(zip(COLUMNS.values(), (value.strip() for value in line.split("|")), strict=False)))
    return found


def in_queue(job: Mapping[str, str]) -> bool:
    """Whether a job of `queue` waits, runs or is about to end."""
    return job["state"] in ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD")


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; their ranks are told to save first. Raises EnvironmentFault with scancel's words."""
    answer = _ask("scancel", *jobs)
    if answer.returncode:
        raise EnvironmentFault(f"scancel: {answer.stderr.strip()}", "a job can only be cancelled by whoever submitted it")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise EnvironmentFault(
            f"no {command[0]} here",
            "use a machine from which jobs are submitted; --no-submit writes the script for somebody who can submit it",
        ) from None
