"""What is in a run directory, also in one that is damaged: everything that can be read, and a sentence for what cannot.

For people who look (`inceptionctl runs`). Who goes on from a run reads it strictly, through run.py and train/checkpoint_files.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from inceptionctl.errors import DivergedError, RecipeError, ResumeLater
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.lock import lock_of
from inceptionctl.words import has_top5

# A run directory that lost its recipe or its checkpoints is still known by what is left.
MARKS = ("recipe.yaml", "checkpoints", "metrics.jsonl", "environment.json")

# A rank waits so long for another by default (train.collective_timeout_seconds), and says something before.
SECONDS_OF_SILENCE = 600.0

Row = dict[str, Any]


class CheckpointRow(TypedDict):
    """A checkpoint as far as names and sizes tell."""

    name: str
    step: int
    epoch: float | None
    bytes: int
    pointers: list[str]
    """latest, best, kept."""
    problem: str | None


class ListedCheckpoint(CheckpointRow):
    """With where it lies."""

    path: str


@dataclass
class RunContents:
    """What could be read of a run directory; `problems` says what could not."""

    run: Run
    problems: list[str] = field(default_factory=list)
    recipe: Recipe | None = None
    starts: list[Row] = field(default_factory=list)
    train_rows: list[Row] = field(default_factory=list)
    evaluate_rows: list[Row] = field(default_factory=list)
    rollbacks: list[Row] = field(default_factory=list)
    """Oldest first: where it diverged, where it went back to, which batches it skips since."""
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    """Oldest first, as read_checkpoints gives them."""
    progress: Row = field(default_factory=dict)
    """progress.json of the newest checkpoint that is whole, as far as names and sizes tell."""

    @property
    def step(self) -> int:
        """Optimizer steps done; the metrics may be ahead of the newest checkpoint."""
        return max((row["step"] for row in self._rows()), default=0)

    @property
    def epoch(self) -> float | None:
        """Epochs done."""
        return max((epoch for row in self._rows() if (epoch := finite(row.get("epoch"))) is not None), default=None)

    def _rows(self) -> list[Row]:
        return [*self.train_rows, *self.evaluate_rows, *([self.progress] if self.progress else [])]

    @property
    def validated_on(self) -> str:
        """The subset of the validation images that the newest evaluation while training is of."""
        return _subset(self._validations[-1])

    @property
    def best_validation(self) -> Row | None:
        """The evaluation while training with the lowest top-1 error; of those on the subset of the newest."""
        rows = [row for row in self._validations if _subset(row) == self.validated_on]
        judged = [row for row in rows if finite(row.get("top1_error")) is not None]
        return min(judged, key=lambda row: float(row["top1_error"]), default=None)

    @property
    def best_top1_error(self) -> float | None:
        """Its top-1 error in percent."""
        return finite(self.best_validation["top1_error"]) if self.best_validation else None

    @property
    def _validations(self) -> list[Row]:
        best = self.progress.get("best")
        return [best if isinstance(best, dict) else {}, *self.evaluate_rows]

    is_running: bool = False
    """Whether somebody trains in it."""
    holder: str = ""
    """Who has named themselves in its lock: whoever trains in it, or died there."""

    @property
    def has_top5(self) -> bool:
        """Whether there is a top-5 error to show: with five classes or fewer it is always zero."""
        if self.recipe:
            return has_top5(self.recipe.model.num_classes)
        return any(row.get("top5_error") for row in self.evaluate_rows)

    @property
    def state(self) -> str:
        """What is going on.

        running      somebody trains in it
        finished     at the end that its recipe says
        stopped      ended in order before that: a signal, or a recipe that was made longer
        diverged     ended with exit code 6
        failed       ended with another error, or was killed
        not started  no training has begun in it
        broken       there are checkpoints but none is whole, or there is nothing to go by
        """
        if self.is_running:
            return "running"
        if not self.progress and (self.checkpoints or self.recipe is None):
            return "broken"
        if self.progress and self._reached_end:
            return "finished"
        if not self.progress and not self.starts:
            return "not started"
        code = self.ended.get("exit_code")
        if code is None and not self.starts:
            return "stopped"
        if code is None:  # killed, unless it was a start of before inceptionctl noted ends: those kept no directory either
            return "failed" if self.holder or "directory" in self.starts[-1] else "stopped"
        return {0: "stopped", ResumeLater.exit_code: "stopped", DivergedError.exit_code: "diverged"}.get(code, "failed")

    @property
    def ended(self) -> Row:
        """How the last start has ended: time, exit_code and message. Empty while it goes on, and where it was killed."""
        ended = self.starts[-1].get("ended") if self.starts else None
        return ended if isinstance(ended, dict) else {}

    @property
    def why(self) -> str:
        """The state with what there is to say of it."""
        if self.state == "running":
            return f"running: {self.holder}"
        if self.state == "failed" and not self.ended:
            return f"failed: {self.holder or 'the last start'} was killed or exited without saving"
        message = str(self.ended.get("message") or "")
        if self.state not in ("failed", "diverged") or not message:
            return self.state
        return f"{self.state}: exit code {self.ended['exit_code']}, {message.splitlines()[0]}"

    @property
    def _reached_end(self) -> bool:
        if self.recipe is None or not isinstance(self.progress["recipe"].get("train"), dict):
            return bool(self.progress["step"] >= self.progress["total_steps"] or self.progress.get("stopped_early"))
        return files.reached_end(self.progress, self.recipe)

    def next_commands(self) -> list[str]:
        """What to type next."""
        path, recipe = shlex.quote(str(self.run.path)), shlex.quote(str(self.run.recipe_file))
        if self.state == "running":
            return [f"inceptionctl watch {path}"]
        if self.recipe is None:
            return [f"inceptionctl recipes check {recipe}"] if self.run.recipe_file.exists() else []
        if self.state == "broken":
            return [f"inceptionctl checkpoints verify {path}"]
        if self.state != "finished":
            # The same batches would diverge again.
            again = " --set train.on_divergence=rollback" if self.state == "diverged" and self.progress else ""
            return [f"inceptionctl train {recipe} --output {path}{again}"]
        missing = [
            verb
            for verb, folder in (("evaluate", self.run.evaluations), ("export", self.run.export))
            if not files_below(folder)
        ]
        return [f"inceptionctl {verb} {path}" for verb in missing] or [f"inceptionctl predict {path} IMAGE.jpg"]


def read_run(run: Run) -> RunContents:
    """Read a run directory. Never raises on account of what is in it."""
    found = RunContents(run)
    _read_recipe(found)
    found.starts = _read_list(found, found.run.environment_file, "starts")
    found.rollbacks = _read_list(found, found.run.rollbacks_file, "rollbacks")
    _read_metrics(found)
    _read_checkpoints(found)
    is_held, found.holder = lock_of(run)
    found.is_running = is_held or _lives_elsewhere(found)
    return found


def _lives_elsewhere(found: RunContents) -> bool:
    """Whether a process of another host, whose lock may not be seen here, has written to the log lately."""
    if not found.holder or found.ended or found.holder.endswith(f" on {socket.gethostname()}"):
        return False
    with contextlib.suppress(OSError):
        return time.time() - found.run.log_file.stat().st_mtime < SECONDS_OF_SILENCE
    return False


def by_subset(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Evaluate rows by the subset of the validation images that they are of: their errors do not compare."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_subset(row), []).append(row)
    return found


def _subset(row: Row) -> str:
    return str(row.get("subset", "all"))


def looks_like_run(path: Path) -> bool:
    """Whether a folder is a run directory, or what is left of one."""
    return path.is_dir() and any((path / mark).exists() for mark in MARKS)


def files_below(folder: Path) -> list[Row]:
    """Name and bytes of every file below a folder, sorted by name, less the hidden ones."""
    found = [(path.relative_to(folder), size) for path, size in _sizes_below(folder)]
    shown = [(name, size) for name, size in found if not any(part.startswith(".") for part in name.parts)]
    return sorted(({"name": str(name), "bytes": size} for name, size in shown), key=lambda item: str(item["name"]))


def bytes_below(folder: Path) -> int:
    """What a folder takes of the disk, hidden files and all."""
    return sum(size for _, size in _sizes_below(folder))


def _sizes_below(folder: Path) -> Iterator[tuple[Path, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a training may delete some while we look
                path = Path(parent, name)
                yield path, path.lstat().st_size


def finite(value: Any) -> float | None:
    """A number that JSON can hold and that can be compared; None for anything else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _read_recipe(found: RunContents) -> None:
    if not found.run.recipe_file.is_file():
        found.problems.append("recipe.yaml is missing")
        return
    try:
        found.recipe = found.run.recipe()
    except RecipeError as error:
        details = "; ".join(f"{problem.where.rpartition('/')[2]}: {problem.message}" for problem in error.problems)
        found.problems.append(f"recipe.yaml does not load: {details or error.message}")


def _read_list(found: RunContents, path: Path, of: str) -> list[Row]:
    if not path.exists():
        return []  # made with the first of them; before that nothing is wrong
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found.problems.append(f"{path.name} cannot be read: {error}")
        return []
    known = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not isinstance(entries, list) or len(known) < len(entries):
        found.problems.append(f"{path.name} is not a list of {of}")
    return known


def _read_metrics(found: RunContents) -> None:
    path = found.run.metrics_file
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        found.problems.append(f"metrics.jsonl cannot be read: {error.strerror}")
        return
    broken = []
    # What comes after the last line break is being written, or was when the run was killed: nothing is broken then.
    for number, line in enumerate(lines[:-1], start=1):
        row = _row_of(line)
        if row is None:
            broken.append(number)
        elif row["kind"] == "train":
            found.train_rows.append(row)
        elif row["kind"] == "evaluate":
            found.evaluate_rows.append(row)
    if broken:
        what = f"line {broken[0]} is" if len(broken) == 1 else f"{len(broken)} lines, the first of them line {broken[0]}, are"
        found.problems.append(f"metrics.jsonl: {what} no row of numbers")


def _row_of(line: bytes) -> Row | None:
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int):
            return row
    return None


def _read_checkpoints(found: RunContents) -> None:
    folder = found.run.checkpoints
    if not folder.is_dir():
        found.problems.append("checkpoints/ is missing")
        return
    found.checkpoints, found.progress, problems = read_checkpoints(folder)
    found.problems += problems


def read_checkpoints(folder: Path) -> tuple[list[CheckpointRow], Row, list[str]]:
    """Rows of the checkpoints in a folder, oldest first, the progress of the newest good one, and what is wrong with them."""
    problems: list[str] = []
    pointers = {name: _pointed(folder, name, problems) for name in ("latest", "best")}
    rows: list[CheckpointRow] = []
    newest: Row = {}
    for checkpoint in files.list_checkpoints(folder):
        row, progress = read_checkpoint(checkpoint)
        row["pointers"] = [name for name, target in pointers.items() if target == checkpoint]
        newest = progress or newest
        if row["problem"]:
            problems.append(f"{checkpoint.name}: {row['problem']}")
        rows.append(row)
    kept = newest.get("kept")
    for row in rows:
        row["pointers"] += ["kept"] if isinstance(kept, list) and row["step"] in kept else []
    return rows, newest, problems


def read_checkpoint(checkpoint: Path) -> tuple[CheckpointRow, Row]:
    """The row of a checkpoint by itself, and its progress where it is good."""
    problem, progress = _look_through(checkpoint)
    row: CheckpointRow = {
        "name": checkpoint.name,
        "step": progress["step"] if progress else files.step_of(checkpoint),
        "epoch": finite(progress.get("epoch")),
        "bytes": bytes_below(checkpoint),
        "pointers": [],
        "problem": problem,
    }
    return row, progress


def _pointed(folder: Path, name: str, problems: list[str]) -> Path | None:
    target = None
    with contextlib.suppress(OSError, ValueError):
        target = files.pointed(folder, name)
    if target is None and (folder / name).exists():
        problems.append(f"checkpoints/{name} names no checkpoint that is there")
    return target


def _look_through(checkpoint: Path) -> tuple[str | None, Row]:
    """What is wrong with a checkpoint as far as names and sizes tell, and the progress of a good one.

    Checksums are left to those who use the checkpoint: they read every byte.
    """
    name = files.MANIFEST
    try:
        noted = json.loads((checkpoint / name).read_text(encoding="utf-8"))["files"]
        sizes = {name: int(noted[name]["bytes"]) for name in (*files.FILES, *noted)}
        for name, size in sizes.items():
            held = (checkpoint / name).stat().st_size
            if held != size:
                return f"{name} has {held} bytes, not {size}", {}
        strangers = files.strangers_in(checkpoint, sizes)
        if strangers:
            return f"holds {', '.join(strangers)}, which its manifest does not name", {}
        name = "progress.json"
        progress = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        numbers = [progress["step"], progress["total_steps"]]
    except FileNotFoundError:
        return f"{name} is missing", {}
    except (OSError, ValueError, KeyError, TypeError):
        return f"{name} cannot be read", {}
    if not all(isinstance(number, int) for number in numbers) or not isinstance(progress.get("recipe"), dict):
        return "progress.json is of another version", {}
    return None, progress
