"""`bench start`: seconds from the start of `inceptionctl train` to the first row of metrics, phase by phase."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from inceptionctl.bench.figures import Figure
from inceptionctl.distributed.milestones import FILE
from inceptionctl.errors import EnvironmentFault

HELP = "inceptionctl --help"
# What ends at which milestone: of the command (rank "-"), then of rank 0.
PHASES = (
    ("command: recipe, data and output checked", "-", "launches"),
    ("launcher, until a rank begins", "0", "begins"),
    ("imports", "0", "imported"),
    ("DeepSpeed imported, ranks joined", "0", "joined"),
    ("checks, list of images", "0", "listed"),
    ("network, DeepSpeed's engine", "0", "built"),
    ("averages, log, greeting", "0", "trains"),
)
IMAGES, STEP, ALL = "first images", "first step and its row", "all"
SECONDS_TO_START = 600.0
Values = dict[tuple[str, str], float]


def bench_start(
    arguments: Sequence[str],
    ranks: Mapping[str, Sequence[str]],
    images: int,
    repeats: int,
    progress: Callable[[str, int, int], None],
) -> list[Figure]:
    """Figures in seconds of a training's start, and of `inceptionctl --help`.

    `arguments` are `train`'s, for steps of `images` images with a row each; `ranks` are by what a table calls them, each with the
    options that choose them. All take turns, one round before the first that counts. A training is killed once its first row is written.
    CPU seconds are of the one process that passes through the phase. Raises EnvironmentFault when a training ends before that.
    """
    values: dict[tuple[str, str], list[float]] = {}
    total = (repeats + 1) * (len(ranks) + 1)
    for number in range(repeats + 1):
        taken = [_help()]
        progress(HELP, number * (len(ranks) + 1), total)
        for place, (name, options) in enumerate(ranks.items(), start=1):
            progress(name, number * (len(ranks) + 1) + place, total)
            started = _started([*arguments, *options], images)
            taken.append({(f"{name}: {phase}", unit): value for (phase, unit), value in started.items()})
        for key, value in (pair for one in taken for pair in one.items()):
            if number:
                values.setdefault(key, []).append(value)
    return [Figure(*key, listed) for key, listed in values.items()]


def _help() -> Values:
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-P", "-m", "inceptionctl", "--help"], stdout=subprocess.DEVNULL, check=True)
    seconds, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {(HELP, "s"): seconds, (HELP, "CPU s"): used}


def _started(arguments: Sequence[str], images: int) -> Values:
    """Start a training, wait for its first row, and kill it."""
    with tempfile.TemporaryDirectory(prefix="inceptionctl-start-") as made:
        notes, run = Path(made, "milestones"), Path(made, "run")
        command = [sys.executable, "-P", "-m", "inceptionctl", "train", *arguments, "--output", str(run)]
        began = time.time()
        with Path(made, "said").open("w+b") as said:
            process = subprocess.Popen(
                command, env={**os.environ, FILE: str(notes)}, stdout=said, stderr=said, start_new_session=True
            )
            try:
                row = _first_row(run / "metrics.jsonl", process, said.name)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _phases(notes.read_text(encoding="utf-8"), began, row, images)


class _FirstRow(TypedDict):
    time: float
    data_wait: float
    images_per_second: float


def _first_row(file: Path, process: subprocess.Popen[bytes], said: str) -> _FirstRow:
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, StopIteration, ValueError):
            row: _FirstRow = json.loads(next(iter(file.read_text(encoding="utf-8").splitlines())))
            return row
        time.sleep(0.02)
    words = Path(said).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise EnvironmentFault(
        f"the training gave no row of metrics: {' '.join(words[-3:]) or 'it said nothing'}", "train it by hand to see why"
    )


def _phases(notes: str, began: float, row: _FirstRow, images: int) -> Values:
    """From the milestones and the first row, of a step of `images` images. The phases follow each other without gaps."""
    passed = {(rank, name): (float(at), float(cpu)) for rank, name, at, cpu in map(str.split, notes.splitlines())}
    found: Values = {}
    last, last_rank, last_cpu = began, "-", 0.0
    for phase, rank, name in PHASES:
        at, cpu = passed[rank, name]
        found[phase, "s"] = at - last
        found[phase, "CPU s"] = cpu - (last_cpu if rank == last_rank else 0.0)
        last, last_rank, last_cpu = at, rank, cpu
    whole = row["time"] - last
    waited = min(whole, row["data_wait"] * images / row["images_per_second"])
    found[IMAGES, "s"], found[STEP, "s"] = waited, whole - waited
    found[ALL, "s"] = row["time"] - began
    return found
