"""`inceptionctl runs`: what is in the run directories, also in those that are damaged."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run

app = typer.Typer(help="List runs, show one.", no_args_is_help=True)

ROOT = Path("runs")
# A run directory that lost its recipe or its checkpoints is still known by what is left.
MARKS = ("recipe.yaml", "checkpoints", "metrics.jsonl", "environment.json")
RECIPE_KEYS = (
    "model.name",
    "model.num_classes",
    "model.input_px",
    "model.width",
    "data.root",
    "optim.name",
    "schedule.name",
    "schedule.base_lr",
    "train.epochs",
    "train.max_steps",
    "train.global_batch_size",
    "train.precision",
    "train.seed",
)

Row = dict[str, Any]


@dataclass
class Reading:
    """What could be read of a run directory; every thing that could not is a sentence in `problems`."""

    run: Run
    problems: list[str] = field(default_factory=list)
    recipe: Recipe | None = None
    starts: list[Row] = field(default_factory=list)
    train_rows: list[Row] = field(default_factory=list)
    evaluate_rows: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    progress: Row = field(default_factory=dict)
    """progress.json of the newest checkpoint that can be read."""

    @property
    def step(self) -> int:
        """Optimizer steps done; the metrics may be ahead of the newest checkpoint."""
        return max((row["step"] for row in (*self.train_rows, *self.evaluate_rows, self.progress) if "step" in row), default=0)

    @property
    def epoch(self) -> float | None:
        """Epochs done."""
        rows = [row for row in (*self.train_rows, *self.evaluate_rows, self.progress) if _finite(row.get("epoch")) is not None]
        return max((float(row["epoch"]) for row in rows), default=None)

    @property
    def best_top1_error(self) -> float | None:
        """Lowest top-1 error of the evaluations while training, in percent."""
        best = self.progress.get("best")
        rows = [*self.evaluate_rows, best if isinstance(best, dict) else {}]
        return min((error for row in rows if (error := _finite(row.get("top1_error"))) is not None), default=None)

    @property
    def state(self) -> str:
        """finished, unfinished or no checkpoint yet; `broken` when that cannot be told."""
        if self.checkpoints and not self.progress:
            return "broken"
        if not self.progress:
            return "no checkpoint yet" if self.recipe else "broken"
        done = self.progress["step"] >= self.progress["total_steps"]
        return "finished" if done and self._same_end() else "unfinished"

    def _same_end(self) -> bool:
        # `train.epochs` may be raised after the end: the run then goes on.
        kept = self.progress.get("recipe", {}).get("train", {})
        train = self.recipe.train if self.recipe else None
        return train is None or (kept.get("epochs"), kept.get("max_steps")) == (train.epochs, train.max_steps)

    def next_commands(self) -> list[str]:
        """What to type next."""
        path = shlex.quote(str(self.run.path))
        if self.recipe is None:
            return [f"inceptionctl recipes check {shlex.quote(str(self.run.recipe_file))}"] if self.run.recipe_file.exists() else []
        if self.state != "finished":
            return [f"inceptionctl train {shlex.quote(str(self.run.recipe_file))} --output {path}"]
        missing = [name for name, folder in (("evaluate", self.run.evaluations), ("export", self.run.export)) if not _files(folder)]
        return [f"inceptionctl {name} {path}" for name in missing or ("evaluate", "export")]

    def summary(self) -> Row:
        """The run as a row of `runs list`."""
        losses = [row.get("loss") for row in self.train_rows]
        return {
            "name": self.run.path.name,
            "path": str(self.run.path),
            "model": self.recipe.model.name if self.recipe else None,
            "step": self.step,
            "total_steps": self.progress.get("total_steps"),
            "epoch": self.epoch,
            "best_top1_error": self.best_top1_error,
            "last_loss": _finite(losses[-1]) if losses else None,
            "state": self.state,
            "bytes": sum(item["bytes"] for item in _files(self.run.path)),
            "problems": self.problems,
        }


def read(run: Run) -> Reading:
    """Everything of a run that can be read. Never raises on account of what is in the directory."""
    reading = Reading(run)
    _read_recipe(reading)
    _read_starts(reading)
    _read_metrics(reading)
    _read_checkpoints(reading)
    return reading


def _read_recipe(reading: Reading) -> None:
    if not reading.run.recipe_file.is_file():
        reading.problems.append("recipe.yaml is missing")
        return
    try:
        reading.recipe = reading.run.recipe()
    except RecipeError as error:
        details = "; ".join(f"{problem.where.rpartition('/')[2]}: {problem.message}" for problem in error.problems)
        reading.problems.append(f"recipe.yaml does not load: {details or error.message}")


def _read_starts(reading: Reading) -> None:
    path = reading.run.environment_file
    if not path.exists():
        return  # a run is made before its first rank has started
    content = _json_of(path, reading)
    entries = content if isinstance(content, list) else []
    reading.starts = [entry for entry in entries if isinstance(entry, dict)]
    if content is not None and (not isinstance(content, list) or len(reading.starts) < len(entries)):
        reading.problems.append("environment.json is not a list of starts")


def _json_of(path: Path, reading: Reading) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reading.problems.append(f"{path.relative_to(reading.run.path)} cannot be read: {error}")
        return None


def _read_metrics(reading: Reading) -> None:
    path = reading.run.metrics_file
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        reading.problems.append(f"metrics.jsonl cannot be read: {error.strerror}")
        return
    # What comes after the last line break is being written, or was when the run was killed: nothing is broken then.
    broken = []
    for number, line in enumerate(lines[:-1], start=1):
        row = _row_of(line)
        if row is None:
            broken.append(number)
        elif row["kind"] == "train":
            reading.train_rows.append(row)
        elif row["kind"] == "evaluate":
            reading.evaluate_rows.append(row)
    if broken:
        what = f"line {broken[0]} is" if len(broken) == 1 else f"{len(broken)} lines, the first of them line {broken[0]}, are"
        reading.problems.append(f"metrics.jsonl: {what} no row of numbers")


def _row_of(line: bytes) -> Row | None:
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int):
            return row
    return None


def _read_checkpoints(reading: Reading) -> None:
    from inceptionctl.train import checkpoint_files as files

    folder = reading.run.checkpoints
    if not folder.is_dir():
        reading.problems.append("checkpoints/ is missing")
        return
    pointers = {name: _pointed(reading, name) for name in ("latest", "best")}
    for checkpoint in files.list_checkpoints(folder):
        entry: Row = {"name": checkpoint.name, "step": files.step_of(checkpoint)}
        entry["bytes"] = sum(item["bytes"] for item in _files(checkpoint))
        entry["pointers"] = [name for name, target in pointers.items() if target == checkpoint]
        entry["problem"] = _looked_through(reading, checkpoint)
        if entry["problem"]:
            reading.problems.append(f"{checkpoint.name}: {entry['problem']}")
        reading.checkpoints.append(entry)


def _pointed(reading: Reading, name: str) -> Path | None:
    from inceptionctl.train import checkpoint_files as files

    target = None
    with contextlib.suppress(OSError, ValueError):
        target = files.pointed(reading.run.checkpoints, name)
    if target is None and (reading.run.checkpoints / name).exists():
        reading.problems.append(f"checkpoints/{name} names no checkpoint that is there")
    return target


def _looked_through(reading: Reading, checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as far as names and sizes tell; keeps the progress of a good one.

    Its checksums are not computed: that reads every byte, and `train`, `evaluate` and `export` do it before they use one.
    """
    from inceptionctl.train import checkpoint_files as files

    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        for name in files.FILES:
            held, noted = (checkpoint / name).stat().st_size, manifest["files"][name]["bytes"]
            if held != noted:
                return f"{name} has {held} bytes, not {noted}"
        progress = files.read_progress(checkpoint)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except CheckpointError as error:
        return error.message
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"
    if not all(isinstance(progress.get(key), int) for key in ("step", "total_steps")) or not isinstance(progress.get("recipe"), dict):
        return "progress.json lacks step, total_steps or recipe"
    reading.progress = progress
    return None


def _files(folder: Path) -> list[Row]:
    """Name and size of every file below a folder. A training may delete some while we look."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            with contextlib.suppress(OSError):
                path = Path(parent, name)
                found.append({"name": str(path.relative_to(folder)), "bytes": path.lstat().st_size})
    return sorted(found, key=lambda item: str(item["name"]))


def _finite(value: Any) -> float | None:
    """A number that JSON can hold and people can compare; None for anything else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _looks_like_run(path: Path) -> bool:
    return path.is_dir() and any((path / mark).exists() for mark in MARKS)


def _runs_under(root: Path) -> list[Run]:
    from inceptionctl.run import Run

    if not root.exists() and root == ROOT:
        return []
    if _looks_like_run(root):
        raise CheckpointError(f"{root} is a run itself", f"inceptionctl runs show {shlex.quote(str(root))}")
    try:
        runs = [Run(path) for path in root.iterdir() if _looks_like_run(path)]
    except OSError as error:
        raise CheckpointError(f"cannot list {root}: {error.strerror}", "name the folder that holds the run directories") from None
    return sorted(runs, key=_age)


def _age(run: Run) -> tuple[float, str]:
    file = run.recipe_file if run.recipe_file.exists() else run.path
    return file.stat().st_mtime, run.path.name


@app.command(name="list")
def list_runs(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that holds run directories.")] = ROOT, as_json: Json = False
) -> None:
    """List the runs in a folder, oldest first."""
    found = [read(run).summary() for run in _runs_under(root)]
    if as_json:
        console.print_json(found)
        return
    if not found:
        console.say(f"no runs under {root}; `inceptionctl train quickstart` makes one")
        return
    columns = ("run", "model", "step", "epoch", "best top-1 error %", "last loss", "state", "size")
    rows = [
        (
            item["name"],
            item["model"] or "?",
            f"{item['step']} / {'?' if item['total_steps'] is None else item['total_steps']}",
            _shown(item["epoch"], 2),
            _shown(item["best_top1_error"], 2),
            _shown(item["last_loss"], 4),
            item["state"],
            console.size(item["bytes"]),
        )
        for item in found
    ]
    console.print_table(f"Runs under {root}", columns, rows, right=("step", "epoch", "best top-1 error %", "last loss", "size"))
    for item in found:
        for problem in item["problems"]:
            console.out.print(f"{item['name']}: {problem}", soft_wrap=True)
    console.say("`inceptionctl runs show RUN` shows one, and how it goes on")


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
