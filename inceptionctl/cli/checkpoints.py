"""`inceptionctl checkpoints`: what is in a checkpoint and whether it is intact. Read-only."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, run_named
from inceptionctl.errors import CheckpointError
from inceptionctl.words import best_in_words, counted, has_top5, with_top5_where

if TYPE_CHECKING:
    from inceptionctl.run_contents import CheckpointRow, ListedCheckpoint, Row
    from inceptionctl.train.checkpoint import Rollback
    from inceptionctl.train.checkpoint_files import ManifestEntry

    class CheckpointFile(ManifestEntry):
        """With its name and, of safetensors, the number of its tensors."""

        name: str
        tensors: int | None


app = typer.Typer(help="List, verify and show checkpoints.", no_args_is_help=True, cls=Group)

PathOf = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="A run directory or its name under runs/, or a checkpoint folder.", callback=run_named),
]


@app.command(name="list")
def list_checkpoints(path: PathOf, as_json: Json = False) -> None:
    """List checkpoints, oldest first, and why each is kept. Detects damage by names and sizes only; `verify` reads every byte.

    Exit code 5 if a checkpoint is damaged, or if there is none.
    """
    _report(path, f"Checkpoints of {path}", _rows(path), as_json)


@app.command()
def verify(path: PathOf, as_json: Json = False) -> None:
    """Verify every file against the sha256 in its manifest.

    Exit code 5 if a checkpoint is damaged or has a file that its manifest does not list, or if there is no checkpoint.
    """
    rows = _rows(path)
    for row in rows:
        row["problem"] = _damage(Path(row["path"]))
    _report(path, f"Checkpoints of {path}, every byte verified", rows, as_json)


@app.command()
def show(path: PathOf, as_json: Json = False) -> None:
    """Show the training progress and the files of a checkpoint; for a run, of the newest intact one.

    Verifies every byte first. Exit code 5 if the checkpoint is damaged, or if the run has no intact one.
    """
    from inceptionctl.run import is_run
    from inceptionctl.train import checkpoint_files as files

    _check_exists(path)
    newest, skipped = files.newest_whole(path / "checkpoints") if is_run(path) else (None, [])
    checkpoint = newest or files.open_checkpoint(path)
    for sentence in skipped:
        console.warn(sentence)
    progress = files.read_progress(checkpoint)
    if isinstance(progress.get("best"), dict):
        progress["best"] = with_top5_where(has_top5(len(progress.get("classes") or ())), progress["best"])
    result = {
        "path": str(checkpoint),
        **{key: value for key, value in progress.items() if key not in ("recipe", "classes")},
        "classes": progress.get("classes"),
        "recipe": progress.get("recipe"),
        "files": _files(checkpoint),
    }
    if as_json:
        console.print_json(result)
        return
    _print_checkpoint(result)
    if skipped:
        console.say(f"`inceptionctl checkpoints verify {shlex.quote(str(path))}` reports the damage")


def _rows(path: Path) -> list[ListedCheckpoint]:
    from inceptionctl.run import is_run
    from inceptionctl.run_contents import read_checkpoint, read_checkpoints
    from inceptionctl.train import checkpoint_files as files

    _check_exists(path)
    folder = path / "checkpoints" if is_run(path) or (path / "checkpoints").is_dir() else path
    if files.list_checkpoints(folder) or folder != path:
        rows, _, problems = read_checkpoints(folder)
        for problem in problems:
            if problem.startswith("checkpoints/"):  # a pointer; the others stand in the rows
                console.warn(problem)
        return [{"path": str(folder / row["name"]), **row} for row in rows]
    if not any((path / name).exists() for name in (*files.FILES, files.MANIFEST)):
        raise CheckpointError(f"{path} is neither a run directory nor a checkpoint", "name a run, or a folder step-... in one")
    return [{"path": str(path), **read_checkpoint(path)[0]}]


def _check_exists(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"no run or checkpoint {path}", "`inceptionctl runs list` shows the runs")


def _damage(checkpoint: Path) -> str | None:
    from inceptionctl.train import checkpoint_files as files

    try:
        files.verify(checkpoint)
    except CheckpointError as error:
        return error.message.removeprefix(f"checkpoint {checkpoint} ").removeprefix("is damaged: ")
    return None


def _report(path: Path, title: str, rows: list[ListedCheckpoint], as_json: bool) -> None:
    if as_json:
        console.print_json(rows)
    else:
        print_checkpoints(title, rows)
    if not rows:
        raise CheckpointError(f"{path} has no checkpoint yet", "a training saves one as the recipe's `checkpoint` section says")
    damaged = [row["name"] for row in rows if row["problem"]]
    if len(damaged) == len(rows):
        raise CheckpointError(
            f"no checkpoint of {path} is whole: {', '.join(damaged)}",
            "restore a copy, or start a new run with another --output",
        )
    if damaged:
        raise CheckpointError(
            f"damaged: {', '.join(damaged)}",
            "`inceptionctl train` resumes from the newest intact one; damaged ones may be deleted",
        )


def print_checkpoints(title: str, rows: Sequence[CheckpointRow]) -> None:
    """A table of checkpoints on stdout."""
    console.print_table(
        title,
        ("checkpoint", "step", "epoch", "size", "is", "damage"),
        [
            (
                row["name"],
                row["step"],
                "" if row["epoch"] is None else f"{row['epoch']:.2f}",
                console.size(row["bytes"]),
                ", ".join(row["pointers"]),
                row["problem"],
            )
            for row in rows
        ],
        right=("step", "epoch", "size"),
        whole=("checkpoint",),
    )


def _files(checkpoint: Path) -> list[CheckpointFile]:
    from safetensors import safe_open

    from inceptionctl.train import checkpoint_files as files

    found: list[CheckpointFile] = []
    for name, entry in files.read_manifest(checkpoint).items():
        tensors = None
        if name.endswith(".safetensors"):
            with safe_open(str(checkpoint / name), framework="np") as file:
                tensors = len(file.keys())
        found.append({"name": name, **entry, "tensors": tensors})
    return found


def _print_checkpoint(result: Row) -> None:
    best = result.get("best") or {}
    rollbacks: Sequence[Rollback] = result.get("rollbacks") or ()
    skipped = ", ".join(f"{each['first_batch']} to {each['last_batch']}" for each in rollbacks)
    pairs = [
        ("step", f"{result['step']} of {result['total_steps']}, epoch {result['epoch']:.2f}"),
        ("network", ((result["recipe"] or {}).get("model") or {}).get("name")),
        ("classes", len(result["classes"] or ())),
        (
            "trained on",
            f"{counted(result['ranks'], 'rank')}, {result['precision']}, {counted(result['num_train_images'], 'image')}",
        ),
        ("EMA updates", result["ema_updates"]),
        ("best so far", best_in_words(best) if best else "not validated yet"),
        ("skipped batches", skipped or "none"),
        ("kept permanently", ", ".join(map(str, result.get("kept") or ())) or "none"),
    ]
    console.print_pairs(result["path"], pairs)
    console.out.print()
    console.print_table(
        "Files, verified by sha256",
        ("file", "size", "tensors", "sha256"),
        [(item["name"], console.size(item["bytes"]), item["tensors"], item["sha256"]) for item in result["files"]],
        right=("size", "tensors"),
        whole=("file",),
    )
