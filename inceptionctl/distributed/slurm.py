"""Slurm: the text of a batch script that trains, goes on and gives up by itself; and its queue, asked through its own commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

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

HEAD = """\
#!/bin/bash
# Trains {run}
# Written by `inceptionctl slurm submit`. To submit it once more: sbatch {file}
#
{resources}
# Where the job starts: relative paths of the recipe begin here.
#SBATCH --chdir={directory}
# What every start says, in one file.
#SBATCH --output={output}
#SBATCH --open-mode=append
# A lost node or a preemption sends the job back into the queue, under the same number.
#SBATCH --requeue
# {notice} s before the time limit the ranks get SIGUSR1, save and exit with 75. Without `B:` it goes to the ranks themselves: srun has
# nothing to pass on, and bash, whose traps wait for srun and can get lost, has nothing to catch. Slurm may send it a minute early.
#SBATCH --signal=USR1@{notice}
{extra}
run={run}
mkdir -p "$run/slurm"
echo "job $SLURM_JOB_ID, restart ${{SLURM_RESTART_COUNT:-0}}, on $SLURM_JOB_NODELIST, $(date '+%F %T')"

# Each start notes the newest checkpoint. If {give_up} restarts in succession find no newer one, the job ends instead of burning the queue.
note=$run/slurm/${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}.newest
newest=$(ls "$run/checkpoints" | grep -xE 'step-[0-9]{{8,}}' | sort -V | tail -n 1)
newest=${{newest:-none}} before= stalled=0
[ ! -f "$note" ] || read -r before stalled <"$note"
[ "$newest" = "$before" ] && stalled=$((stalled + 1)) || stalled=0
echo "$newest $stalled" >"$note"
if [ "$stalled" -ge {give_up} ]; then
    echo "error: {give_up} restarts without a new checkpoint (the newest: $newest); given up" >&2
    exit 4
fi

# The ranks meet on the first node, at a port of the job's own, outside the range that Linux hands out.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
{environment}
# One rank a task. srun does not inherit --cpus-per-task, and binds each rank to cores of its own, which it shares with nobody.
# A rank that ends does not take the others with it at once (--kill-on-bad-exit=0): they may still be saving. After {patience} s they go.
srun --kill-on-bad-exit=0 --wait={patience} --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores \\
    {command}
code=$?

# scancel, `scontrol requeue` and the time limit itself end this script by SIGTERM, so that a cancelled job is not requeued here.
case $code in
0) exit 0 ;;
{final}) exit $code ;; # recipe, data, checkpoint, divergence or a bug: it would end so again
75) echo "stopped by a signal; what was done is kept" ;;
*) echo "ended with code $code: a lost rank, node or resource" ;;
esac
{again}
"""

REQUEUE = """\
# Back into the queue under the same number. Where users may not requeue, code 75 does it if Slurm has RequeueExit=75.
scontrol requeue "$SLURM_JOB_ID"
exit 75"""

NEXT_TASK = """\
# The array's next task goes on.
exit $code"""

ON_GPUS = """\
# NCCL says what is wrong, not what it does. Where a node has several networks, name the fast one:
#export NCCL_SOCKET_IFNAME=ib0
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}"""

ON_CPUS = """\
# Ranks on the CPU; memory that is freed in each step is kept for the next.
export DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export """ + " ".join(f"{name}={value}" for name, value in CPU_ALLOCATOR.items())


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
    lines = [f"#SBATCH --{name}={quoted(value)}" for name, value in resources.items() if value is not None]
    single = ["# A step of one task would take itself for an ordinary shell.", "export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0"]
    environment = [
        "unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE  # those of the shell that submitted",
        *(single if nodes * ranks_per_node == 1 else []),
        ON_CPUS if on_cpu else ON_GPUS,
    ]
    return HEAD.format(
        run=shlex.quote(str(run)),
        file=shlex.quote(str(run / "slurm" / "job.sh")),
        resources="\n".join(lines),
        directory=quoted(str(directory)),
        # Slurm fills in %A and %j; a % of the path itself is doubled.
        output=quoted(f"{run}/slurm/".replace("%", "%%") + ("%A" if array else "%j") + ".out"),
        notice=notice,
        extra="\n".join(["# From --sbatch.", "#SBATCH " + " ".join(map(quoted, extra)), ""]) if extra else "",
        give_up=give_up_after,
        environment="\n".join(environment),
        patience=120,
        command=" \\\n    ".join([*_container(container, directory, mounts, python), TRAIN.format(recipe=recipe)]),
        final="|".join(map(str, FINAL_CODES)),
        again=NEXT_TASK if array else REQUEUE,
    )


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
