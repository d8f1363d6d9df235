"""The run directory: names of its files, and who may start in it.

runs/2026-08-22_inception-v4_a1b2c3/
  recipe.yaml        complete, defaults included
  exclusions.txt     the list of data.exclusions as it was when the run began, if there is one
  environment.json   one entry for each start: versions, machine, ranks, command, directory, Slurm job and restart, and how it ended
  data_list.gz       names and labels of the training images (train/data_list.py)
  log.txt            what rank 0 said
  metrics.jsonl      one JSON object a line: kind train or evaluate
  rollbacks.json     where a diverged training went back, and the batches that it skips since
  tensorboard/       the same numbers as TensorBoard events
  wandb.json         the run's id at Weights & Biases and what was sent; mlflow.json the same of MLflow (train/trackers.py)
  wandb/             Weights & Biases' own files, which `wandb sync` sends
  checkpoints/       step-00012510/ ..., and the text files `latest` and `best` that name one of them
  evaluations/       one JSON for each evaluation
  export/            what `inceptionctl export` wrote
  slurm/             what `inceptionctl slurm submit` wrote: job.sh, jobs.json, and the output of each job
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inceptionctl.errors import CheckpointError, EnvironmentFault, RecipeError
from inceptionctl.nearby import did_you_mean
from inceptionctl.recipe.data_section import expanded
from inceptionctl.recipe.load import dump_recipe, load_recipe
from inceptionctl.recipe.schema import Recipe, binding, differing
from inceptionctl.storage import disk_errors, write_atomically

RUNS = Path("runs")
"""Where runs lie unless `--output` says otherwise, and where their names are looked up."""
# What tells that a folder is a run, even a damaged one, a checkpoint or a folder of exports.
OURS = ("recipe.yaml", "checkpoints", "metrics.jsonl", "environment.json", "progress.json", "model*", "timm", "triton")


@dataclass(frozen=True)
class Run:
    """A run directory and the names in it."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The complete recipe."""
        return self.path / "recipe.yaml"

    @property
    def exclusions_file(self) -> Path:
        """The list of images that are left out, as it was when the run began."""
        return self.path / "exclusions.txt"

    @property
    def environment_file(self) -> Path:
        """Versions and machine of each start."""
        return self.path / "environment.json"

    @property
    def data_list_file(self) -> Path:
        """Names and labels of the training images."""
        return self.path / "data_list.gz"

    @property
    def lock_file(self) -> Path:
        """Locked by whoever trains here; it names them, and holds a name no longer than they live in order."""
        return self.path / ".lock"

    @property
    def log_file(self) -> Path:
        """What rank 0 said."""
        return self.path / "log.txt"

    @property
    def metrics_file(self) -> Path:
        """Numbers, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def bad_images_file(self) -> Path:
        """Images that a training could not read, with the reasons: a JSON list."""
        return self.path / "bad_images.json"

    @property
    def rollbacks_file(self) -> Path:
        """What a diverged training went back from, and the batches that it skips since: a JSON list (train/rollback.py)."""
        return self.path / "rollbacks.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """Folder of evaluation results."""
        return self.path / "evaluations"

    @property
    def export(self) -> Path:
        """Folder of exports."""
        return self.path / "export"

    def recipe(self) -> Recipe:
        """The recipe of the run. Raises RecipeError when someone broke it by hand."""
        return load_recipe(str(self.recipe_file))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of metrics.jsonl in order; a last line cut short by a kill is left out."""
        if not self.metrics_file.exists():
            return
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


def recipe_fingerprint(recipe: Recipe) -> str:
    """Six hexadecimal digits of what a run computes: equal for recipes that differ only in what may change on the way."""
    text = json.dumps(binding(recipe.resolved()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def new_run_path(recipe: Recipe, runs_root: Path) -> Path:
    """A path under `runs_root` that does not exist yet: date, network and fingerprint, and a number where it is taken."""
    date = datetime.datetime.now().astimezone().date().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.model.name.lower()).strip("-")
    stem = f"{date}_{slug}_{recipe_fingerprint(recipe)}"
    path, number = runs_root / stem, 1
    while path.exists():
        number += 1
        path = runs_root / f"{stem}-{number}"
    return path


_FOLDERS = ("checkpoints", "evaluations", "tensorboard")
_AT_FIRST = ("recipe.yaml", "exclusions.txt", "origin", *_FOLDERS)
"""What a run directory holds before anything has happened in it."""


def create_run(path: Path, recipe: Recipe) -> Run:
    """Make a run directory with its recipe. The directory must be absent or empty (the caller decides what to do otherwise)."""
    with disk_errors(path):
        for folder in _FOLDERS:
            (path / folder).mkdir(parents=True, exist_ok=True)
    run = Run(path)
    excluded = _exclusions(recipe)
    if excluded is not None:
        write_atomically(run.exclusions_file, excluded)
    write_atomically(run.recipe_file, dump_recipe(recipe))
    return run


def _exclusions(recipe: Recipe) -> bytes | None:
    """The list of a recipe; None where there is none or it cannot be read, which whoever opens the data set says."""
    try:
        return recipe.data.exclusions_path.read_bytes() if recipe.data.exclusions_path else None
    except OSError:
        return None


def discard_unused(run: Run) -> None:
    """Take back a run directory in which nothing has happened yet; one that holds anything but its recipe stays as it is."""
    if not _is_unused(run.path):
        return
    for name in (*_AT_FIRST, ".lock"):
        child = run.path / name
        shutil.rmtree(child, ignore_errors=True) if child.is_dir() else child.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a hidden file of somebody else's keeps the folder
        run.path.rmdir()


def is_free(path: Path) -> bool:
    """Whether a new run may be made at a path: nothing is there, an empty directory, or one of `create_run`, which was killed before it
    wrote the recipe or is about to."""
    return not path.exists() or (path.is_dir() and not is_run(path) and _is_unused(path))


def _is_unused(path: Path) -> bool:
    names = {child.name for child in visible(path)}
    return names <= {*_AT_FIRST} and not any(visible(path / name) for name in _FOLDERS)


def visible(folder: Path) -> list[Path]:
    """What is in a folder, but for hidden files: .DS_Store, ._name and .nfs... are put there by systems, and mean nothing."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def note_end(run: Run, exit_code: int, message: str) -> None:
    """Add to the entry of the last start how it ended, as far as the disk takes it."""
    with contextlib.suppress(OSError, ValueError, EnvironmentFault):
        *before, last = json.loads(run.environment_file.read_text(encoding="utf-8"))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if "ended" in last:
            return  # this start has got no entry
        last["ended"] = {"time": now, "exit_code": exit_code, "message": message}
        write_atomically(run.environment_file, json.dumps([*before, last], indent=2) + "\n")


def located(recipe: Recipe, run: Run | None) -> Recipe:
    """A recipe whose data can be found from here: relative paths that lead nowhere begin where the run was started from.

    Of several starts the newest from whose directory they lead somewhere counts. Nothing is changed where there is none.
    """
    if run is None:
        return recipe
    for directory in directories(run):
        data = {key: _from(directory, getattr(recipe.data, key)) for key in DATA_PATHS}
        blacklist = _from(directory, recipe.evaluate.blacklist)
        if _leads_somewhere(data["root"]) or (data["train_csv"] and _leads_somewhere(data["train_csv"])):
            evaluate = recipe.evaluate.model_copy(update={"blacklist": blacklist})
            return recipe.model_copy(update={"data": recipe.data.model_copy(update=data), "evaluate": evaluate})
    return recipe


DATA_PATHS = ("root", "class_names", "val_labels", "train_csv", "val_csv", "exclusions")


def directories(run: Run) -> list[Path]:
    """Where a run was started from, the newest first."""
    try:
        entries = json.loads(run.environment_file.read_text(encoding="utf-8"))
        found = [entry["directory"] for entry in reversed(entries) if isinstance(entry.get("directory"), str)]
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    return [Path(directory) for directory in dict.fromkeys(found)]


def _from(directory: Path, path: str | None) -> str | None:
    if path is None or _leads_somewhere(path):
        return path
    there = directory / expanded(path)
    return str(there) if there.exists() else path


def _leads_somewhere(path: str | None) -> bool:
    return path is not None and expanded(path).exists()


def is_run(path: Path) -> bool:
    """Whether a directory is a run directory."""
    return (path / "recipe.yaml").is_file() and (path / "checkpoints").is_dir()


def find_run(path: Path) -> Path:
    """What a user means by the name of a run: the path, or where nothing of ours is there, the same path under runs/.

    So `b` is `runs/b`, and `b/checkpoints/step-00012510` and `b/export/model.onnx` are what lies in it.
    """
    under = RUNS / path
    stranger = path.is_dir() and under.is_dir() and not any(next(path.glob(mark), None) for mark in OURS)
    return under if under.exists() and (stranger or not path.exists()) else path


def open_run(path: Path) -> Run:
    """An existing run directory. Raises CheckpointError naming what is there instead."""
    if is_run(path):
        return Run(path)
    if not path.exists():
        raise CheckpointError(
            f"no run directory {path}", f"{did_you_mean(path)}`inceptionctl runs list` shows those under runs/"
        )
    raise CheckpointError(f"{path} is not a run directory: it has no recipe.yaml and checkpoints/", "`inceptionctl runs list`")


def changed_keys(recipe: Recipe, run: Run, also: Collection[str] = ()) -> list[str]:
    """What a recipe would compute differently from a run, as `key: run's value -> recipe's value`; `also`: keys that a resumed training may
    change, but here must not."""
    old, new = binding(run.recipe().resolved(), also), binding(recipe.resolved(), also)
    changed = [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in differing(old, new)]
    then, now = run.exclusions_file, _exclusions(recipe)
    if now is not None and then.is_file() and then.read_bytes() != now:
        changed.append(f"data.exclusions: the list {recipe.data.exclusions} is not the one that {then} keeps")
    return changed


def refuse_another_run(recipe: Recipe, run: Run, also: Collection[str] = ()) -> None:
    """Raise CheckpointError when a directory cannot be a run of this recipe: it is one of another recipe, or holds something else. `also` as
    in `changed_keys`."""
    if is_run(run.path):
        changed = changed_keys(recipe, run, also)
        if changed:
            raise CheckpointError(
                f"{run.path} was started with another recipe:\n  " + "\n  ".join(changed),
                "name another folder with --output, or give the recipe that it was started with",
            )
    elif not is_free(run.path):
        raise CheckpointError(f"{run.path} is occupied by something else", "name another folder with --output")


def newest_run_of(recipe: Recipe, runs_root: Path) -> Run | None:
    """The newest run under `runs_root` that computes what the recipe says."""
    runs = [Run(path) for path in visible(runs_root) if is_run(path)]
    for run in sorted(runs, key=lambda run: (run.recipe_file.stat().st_mtime, run.path.name), reverse=True):
        try:
            if not changed_keys(recipe, run):
                return run
        except RecipeError:
            continue  # a run of another version of inceptionctl, whose recipe no longer loads, is not ours to continue
    return None


def append_json(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to a JSON file that holds a list."""
    entries: list[Any] = []
    if path.exists():
        try:
            entries = list(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            path.replace(path.with_name(f"{path.name}.broken"))  # edited by hand: kept aside, not a reason to stop a training
    write_atomically(path, json.dumps([*entries, entry], indent=2) + "\n")
