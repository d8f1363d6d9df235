"""Run `inceptionctl` as a user does: another process, its own stdout, stderr and exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inceptionctl.distributed.local import visible_gpus
from tests.forked import run_command

# What an interpreter, or a library as it is imported, reads once.
READ_AT_START = {"PYTHONPATH", "PYTHONIOENCODING", "LC_ALL", "CUDA_VISIBLE_DEVICES", "CXX", "TORCHINDUCTOR_CACHE_DIR"}

COMMAND = (sys.executable, "-P", "-m", "inceptionctl")

# A net and a training small enough for a test: a few kilobytes of weights, a fraction of a second a step.
TINY = (
    "model.width=0.125",
    "model.input_px=75",
    "train.global_batch_size=8",
    "train.micro_batch_size=2",
    "train.precision=fp32",
    "train.log_every_steps=1",
)


def environment() -> dict[str, str]:
    """The user's environment without what a launcher or a terminal would add."""
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("SLURM_")}
    # One thread: these nets are too small to gain from more, and threads that wait for each other crawl on a busy machine.
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def inceptionctl(
    *arguments: str | Path, cwd: Path | None = None, new_process: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: forked from a process that has imported everything, or a new one as a shell starts it.

    Where there is a GPU it is always a new one: CUDA does not outlive a fork, and what is forked has been imported for a CPU.
    """
    words, born_with = [str(argument) for argument in arguments], environment() | variables
    if not (new_process or visible_gpus() or READ_AT_START & variables.keys()):
        return run_command(words, cwd, born_with, timeout=900)
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=born_with, timeout=900, check=False)


def sets(*settings: str) -> list[str]:
    """--set options."""
    return [word for setting in settings for word in ("--set", setting)]


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The command ended with this code and a worded error: every word is there, a hint too, and no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stderr.lstrip().startswith("error: ") or "\nerror: " in result.stderr, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "hint: " in result.stderr
    for word in words:
        assert word in result.stderr, f"{word!r} is not in:\n{result.stderr}"


@contextmanager
def started(*arguments: str | Path, cwd: Path, log: Path, by: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on, started `by` another if given; with everything it started it is killed at the end."""
    command = [*by, *COMMAND, *map(str, arguments)]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=cwd, env=environment(), start_new_session=True)
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a command, its launcher and all ranks at once."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Wait until a run has logged a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(row["step"] >= step for row in rows(run)):
            return
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        time.sleep(0.05)
    raise AssertionError(f"no step {step} within {seconds} s:\n{log.read_text()}")
