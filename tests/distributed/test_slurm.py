"""Jobs in a real Slurm of two virtual nodes: submitted, finished, looked at, cut by everything that Slurm does, never set back."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import TINY, inceptionctl, refused, rows, sets
from tests.data.conftest import fill
from tests.distributed.conftest import SCRIPT

STEPS = 12
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
RANKS = ("--nodes", "2", "--cpu-ranks-per-node", "1")
ODD = 'it\'s $HOME `id` 100% "x" #1'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "im ages"
    for split, counts in (("train", (15, 14)), ("val", (3, 4))):
        for label, count in enumerate(counts):
            fill(root / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    return root


def submit(data: Path, folder: Path, slurm: dict[str, str], *arguments: str, steps: int = STEPS, every: int = 5) -> str:
    """Submit a tiny training of two ranks, one on each node, and return the job's number."""
    settings = sets(
        *TINY,
        "model.num_classes=2",
        "train.epochs=1000",
        f"train.max_steps={steps}",
        "checkpoint.every_epochs=null",
        f"checkpoint.every_steps={every}",
        "evaluate.every_epochs=null",
        "schedule.base_lr=0.01",
        f"data.root={data}",
    )
    command = ("slurm", "submit", "inception_v4", *settings, *RANKS, *arguments, "--json")
    result = inceptionctl(*command, cwd=folder, **slurm)
    assert result.returncode == 0, result.stderr
    return str(json.loads(result.stdout)["job"])


def show(slurm: dict[str, str], job: str) -> dict[str, str]:
    """What `scontrol show job` says in simple words."""
    text = control(slurm, "show", "job", job)
    return dict(
        re.findall(r"^ {3}(?:.* )?(JobState|Restarts|ExitCode|Reason|RunTime)=(\S+)", text.replace(" ", "\n   "), re.MULTILINE)
    )


def control(slurm: dict[str, str], *arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=True).stdout


def wait_until(true: Callable[[], bool], what: str, run: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        said = "\n".join(file.read_text(errors="replace") for file in run.glob("slurm/*.out"))
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{said}"
        time.sleep(0.2)


def wait_for_state(slurm: dict[str, str], job: str, state: str, run: Path) -> None:
    wait_until(lambda: show(slurm, job)["JobState"] == state, f"job {job} {state}", run)


@pytest.fixture(scope="module")
def finished(slurm: dict[str, str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an odd name in an odd folder that a job has trained to its end."""
    folder = tmp_path_factory.mktemp("slurm") / ODD
    folder.mkdir()
    job = submit(data, folder, slurm, "--time", "10:00", "--output", ODD)
    wait_for_state(slurm, job, "COMPLETED", folder / ODD)
    return folder / ODD


def test_a_job_with_odd_names_trains_to_the_end(finished: Path) -> None:
    assert [row["step"] for row in rows(finished)] == list(range(1, STEPS + 1))
    [start] = json.loads((finished / "environment.json").read_text())
    assert start["ranks"] == 2 and start["slurm"]["restart"] == 0
    [job] = json.loads((finished / "slurm" / "jobs.json").read_text())
    assert int(job["job"]) == start["slurm"]["job"]


def test_status_logs_and_cancel_of_a_finished_run(slurm: dict[str, str], finished: Path) -> None:
    result = inceptionctl("slurm", "status", finished, "--json", **slurm)
    found = json.loads(result.stdout)
    assert (found["state"], found["step"], found["queue"][0]["state"]) == ("finished", STEPS, "COMPLETED")
    assert found["queue"][0]["restarts"] == "0" and found["queue"][0]["nodes"] == "node[1-2]"
    assert "COMPLETED" in inceptionctl("slurm", "status", finished, **slurm).stdout
    assert "finished: 12 steps" in inceptionctl("slurm", "logs", finished, **slurm).stdout
    assert "nothing to cancel" in inceptionctl("slurm", "cancel", finished, **slurm).stderr
    assert "restart 0" in inceptionctl("runs", "show", finished).stdout


def test_a_finished_run_that_is_requeued_ends_at_once_with_0(slurm: dict[str, str], finished: Path) -> None:
    [job] = json.loads((finished / "slurm" / "jobs.json").read_text())
    control(slurm, "requeue", job["job"])
    go_on(slurm, job["job"], finished)
    wait_for_state(slurm, job["job"], "COMPLETED", finished)
    assert show(slurm, job["job"])["Restarts"] == "1"
    assert "nothing to train" in inceptionctl("slurm", "logs", finished, **slurm).stdout
    assert len(rows(finished)) == STEPS


def go_on(slurm: dict[str, str], job: str, run: Path, restart: int = 1) -> None:
    """Wait until a job is back in the queue, and let it start now instead of after Slurm's two minutes."""

    def back() -> bool:
        found = show(slurm, job)
        return (found["JobState"], found["Restarts"]) == ("PENDING", str(restart))

    wait_until(back, f"job {job} in the queue for the {restart}. time", run)
    time.sleep(2)  # within the second of its end, Slurm's nodes take its new start for the old one and refuse it
    control(slurm, "update", f"jobid={job}", "StartTime=now")


def test_what_sbatch_refuses_is_passed_on_and_leaves_nothing(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=2", f"data.root={data}")
    command = ("slurm", "submit", "inception_v4", *settings, *RANKS, "--time", "1:00", "--output", "run")
    result = inceptionctl(*command, "--partition", "no such", cwd=tmp_path, **slurm)
    refused(result, 4, "invalid partition specified: no such", "sinfo")
    refused(inceptionctl(*command, "--sbatch", "--no-such-option", cwd=tmp_path, **slurm), 4, "no-such-option")
    assert not (tmp_path / "run").exists()


def test_a_waiting_job_is_cancelled_and_no_second_one_submitted(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    job = submit(data, tmp_path, slurm, "--time", "10:00", "--output", "run", "--sbatch", "--begin=now+1hour")
    again = ("slurm", "submit", tmp_path / "run" / "recipe.yaml", *RANKS, "--time", "10:00", "--output", "run")
    refused(inceptionctl(*again, cwd=tmp_path, **slurm), 5, f"job {job}", "PENDING", "slurm cancel")
    refused(inceptionctl("slurm", "logs", "run", cwd=tmp_path, **slurm), 5, "not printed anything yet")
    assert inceptionctl("slurm", "cancel", "run", cwd=tmp_path, **slurm).returncode == 0
    wait_for_state(slurm, job, "CANCELLED", tmp_path / "run")


def test_a_training_that_would_end_so_again_is_not_requeued(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    job = submit(data, tmp_path, slurm, "--time", "10:00", "--output", "run", "--sbatch", "--begin=now+1hour")
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "no_such_key: 1\n")
    control(slurm, "update", f"jobid={job}", "StartTime=now")
    wait_for_state(slurm, job, "FAILED", tmp_path / "run")
    assert show(slurm, job)["ExitCode"] == "2:0"


def test_restarts_without_progress_give_up(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=2", f"data.root={data}")
    arguments = ("--time", "10:00", "--output", "run", "--give-up-after", "1", "--no-submit")
    result = inceptionctl("slurm", "submit", "inception_v4", *settings, *RANKS, *arguments, cwd=tmp_path, **slurm)
    assert result.returncode == 0, result.stderr
    script = tmp_path / "run" / "slurm" / "job.sh"
    text = script.read_text()
    # Ranks that the kernel kills at once, as for want of memory.
    script.write_text(re.sub(r"^    \S+ -P -m inceptionctl", "    sh -c 'kill -KILL $$'", text, flags=re.MULTILINE))
    assert script.read_text() != text
    job = sbatch(slurm, script)
    go_on(slurm, job, tmp_path / "run")
    wait_for_state(slurm, job, "FAILED", tmp_path / "run")
    assert show(slurm, job)["ExitCode"] == "4:0" and show(slurm, job)["Restarts"] == "1"
    assert "1 restarts without a new checkpoint" in (tmp_path / "run" / "slurm" / f"{job}.out").read_text()


def sbatch(slurm: dict[str, str], *arguments: str | Path) -> str:
    command = ["sbatch", "--parsable", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_six_ranks_that_hold_the_optimizer_in_parts_are_preempted_and_go_on(
    slurm: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """As scripts/twenty-ranks does with 20. The only save before the end is the one that the signal asks for, from all six ranks."""
    run = tmp_path / "run"
    shape = ("--cpu-ranks-per-node", "3", *sets("train.zero_stage=1", "train.global_batch_size=12"))
    job = submit(data, tmp_path, slurm, *shape, "--time", "10:00", "--output", "run", steps=2000, every=1000)
    wait_until(lambda: rank_steps(run) >= 2, "two steps", run)
    high = sbatch(slurm, "--partition=high", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=sleep 1")
    wait_for_state(slurm, high, "COMPLETED", run)
    stopped, recipe = rank_steps(run), run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 2000", f"max_steps: {stopped + 3}"))
    go_on(slurm, job, run)
    wait_for_state(slurm, job, "COMPLETED", run)
    starts = json.loads((run / "environment.json").read_text())
    assert [(start["ranks"], start["zero_stage"]) for start in starts] == [(6, 1), (6, 1)]
    assert starts[1]["from_step"] == stopped
    assert [row["step"] for row in rows(run)] == list(range(1, stopped + 4))


@pytest.mark.slow
def test_an_array_of_one_rank_goes_on_task_by_task(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    shape = ("--nodes", "1", "--array", "1-2%1", "--time", "10:00", "--output", "run")
    job = submit(data, tmp_path, slurm, *shape, steps=3)
    said = tmp_path / "run" / "slurm" / f"{job}.out"
    wait_until(lambda: said.exists() and "nothing to train" in said.read_text(), "second task", tmp_path / "run")
    text = said.read_text()
    assert text.index("finished: 3 steps") < text.index("nothing to train")
    [start] = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["ranks"] == 1


def rank_steps(run: Path) -> int:
    found = rows(run)
    return int(found[-1]["step"]) if found else 0


def lose_node(slurm: dict[str, str], name: str) -> None:
    """Kill everything on a virtual node, which has a host name (UTS namespace) of its own, as a power cut does, and let Slurm notice."""
    folder = Path(slurm["SLURM_CONF"]).parent

    def place(process: str) -> str | None:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{process}/ns/uts")  # noqa: PTH115  (not a path)
        return None

    here = place((folder / "pid" / name).read_text().strip())
    for process in os.listdir("/proc"):  # noqa: PTH208
        if process.isdigit() and place(process) == here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    control(slurm, "update", f"nodename={name}", "state=down", "reason=lost")


@pytest.mark.slow
def test_cut_by_everything_that_slurm_does_it_equals_one_never_cut(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    # Slurm takes up to half a minute to tell of a limit: on a quick machine that is a hundred steps and more.
    run, steps = tmp_path / "cut", 320
    job = submit(data, tmp_path, slurm, "--time", "20", "--output", "cut", steps=steps, every=40)

    def trained(more: int) -> None:
        before = rank_steps(run)
        wait_until(lambda: rank_steps(run) >= before + more, f"{more} steps after {before}", run)

    def requeued(restart: int) -> None:
        assert rank_steps(run) < steps
        go_on(slurm, job, run, restart)

    # 1. The time limit, drawn near: Slurm looks twice a minute whether somebody is to be told.
    trained(2)
    minutes = int(show(slurm, job)["RunTime"].split(":")[-2])
    control(slurm, "update", f"jobid={job}", f"TimeLimit={minutes + 2}")
    wait_until(lambda: show(slurm, job)["Restarts"] == "1", "signal before the time limit", run)
    assert "stopped by a signal; what was done is kept" in (run / "slurm" / f"{job}.out").read_text()
    control(slurm, "update", f"jobid={job}", "TimeLimit=20")
    requeued(1)
    trained(2)
    # 2. Preemption by a job of the other partition.
    high = sbatch(slurm, "--partition=high", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=sleep 1")
    wait_for_state(slurm, high, "COMPLETED", run)
    requeued(2)
    trained(2)
    # 3. Somebody requeues it.
    control(slurm, "requeue", job)
    requeued(3)
    trained(2)
    # 4. A node is lost.
    lose_node(slurm, "node2")
    subprocess.run([SCRIPT, "node2", Path(slurm["SLURM_CONF"]).parent], check=True)
    requeued(4)
    trained(2)
    # 5. Cancelled: that job is over, and another goes on.
    assert inceptionctl("slurm", "cancel", "cut", cwd=tmp_path, **slurm).returncode == 0
    wait_for_state(slurm, job, "CANCELLED", run)
    job = submit(data, tmp_path, slurm, "--time", "20:00", "--output", "cut", steps=steps, every=40)
    wait_for_state(slurm, job, "COMPLETED", run)

    starts = [
        (start["slurm"]["job"], start["slurm"]["restart"]) for start in json.loads((run / "environment.json").read_text())
    ]
    assert [restart for _, restart in starts] == [0, 1, 2, 3, 4, 0] and starts[-1][0] == int(job)
    whole = submit(data, tmp_path, slurm, "--time", "20:00", "--output", "whole", steps=steps, every=40)
    wait_for_state(slurm, whole, "COMPLETED", tmp_path / "whole")
    assert [row["step"] for row in rows(run)] == list(range(1, steps + 1))
    for name in FILES:
        ours, theirs = (path / "checkpoints" / f"step-{steps:08d}" / name for path in (run, tmp_path / "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert "restart 4" in inceptionctl("runs", "show", run).stdout
