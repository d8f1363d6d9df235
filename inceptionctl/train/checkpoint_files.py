"""Checkpoints as files: names, manifest, pointers, pruning. No tensor is touched and torch is not imported.

step-00012510/
  model.safetensors      weights and batch-norm statistics
  ema.safetensors        their running averages
  optimizer.safetensors  state of the optimizer, `parameter/key`
  progress.json          position, counters, classes, the whole recipe
  manifest.json          size and sha256 of each file above; written last

A file that the manifest does not name is damage: whatever else lies in a checkpoint, nobody of ours has put there. Hidden files are passed
over (.DS_Store, .nfs...): systems put them anywhere, and nothing of them is ever read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from inceptionctl.console import JsonObject
from inceptionctl.errors import CheckpointError
from inceptionctl.nearby import did_you_mean
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import is_run, visible
from inceptionctl.storage import disk_errors, sha256_of, write_atomically

FORMAT = 1
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "progress.json")
MANIFEST = "manifest.json"
STEP_FOLDER = re.compile(r"step-(\d{8,})$")


def step_folder(checkpoints: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimizer steps."""
    return checkpoints / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done at a checkpoint, from its folder's name."""
    match = STEP_FOLDER.search(checkpoint.name)
    return int(match.group(1)) if match else -1


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first. Folders that were being written when a run died are not among them."""
    if not checkpoints.is_dir():
        return []
    return sorted((path for path in checkpoints.iterdir() if STEP_FOLDER.fullmatch(path.name)), key=step_of)


def seal(folder: Path) -> None:
    """Write the manifest of a folder whose files are complete."""
    names = [*FILES, *sorted(path.name for path in visible(folder) if path.name not in (*FILES, MANIFEST))]
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}
    write_atomically(folder / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n")


def verify(checkpoint: Path) -> None:
    """Compare every file with the manifest. Raises CheckpointError naming the file and what is wrong with it."""
    try:
        _verify(checkpoint)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(checkpoint, f"it cannot be compared with manifest.json: {type(error).__name__}: {error}") from None


class ManifestEntry(TypedDict):
    """What the manifest says of a file."""

    bytes: int
    sha256: str


def read_manifest(checkpoint: Path) -> dict[str, ManifestEntry]:
    """The entries by file of a checkpoint that verifies."""
    entries: dict[str, ManifestEntry] = _read_json(checkpoint / MANIFEST)["files"]
    return entries


def _verify(checkpoint: Path) -> None:
    manifest = _read_json(checkpoint / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{checkpoint} has format {manifest.get('format')!r}; this version reads {FORMAT}", "update inceptionctl"
        )
    entries = manifest.get("files", {})
    for name in dict.fromkeys((*FILES, *entries)):
        entry = entries.get(name)
        path = checkpoint / name
        if entry is None or path.parent != checkpoint or not path.is_file():
            raise _damaged(checkpoint, f"{name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise _damaged(checkpoint, f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}")
        if sha256_of(path) != entry["sha256"]:
            raise _damaged(checkpoint, f"{name} was changed: its sha256 differs from the manifest's")
    strangers = strangers_in(checkpoint, entries)
    if strangers:
        raise CheckpointError(
            f"checkpoint {checkpoint} holds {', '.join(strangers)}, which its manifest does not name",
            "take away what does not belong there; nothing of it is ever read",
        )


def strangers_in(checkpoint: Path, known: Iterable[str]) -> list[str]:
    """Files of a checkpoint that its manifest does not name."""
    return sorted(path.name for path in visible(checkpoint) if path.name not in (MANIFEST, *known))


def _damaged(checkpoint: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {checkpoint} is damaged: {what}",
        "`train` resumes from the newest intact one by itself; `evaluate`, `export` and `predict` take another by --checkpoint STEP",
    )


def read_progress(checkpoint: Path) -> JsonObject:
    """progress.json of a checkpoint. Raises CheckpointError when it is missing or not JSON."""
    return _read_json(checkpoint / "progress.json")


def reached_end(progress: JsonObject, recipe: Recipe) -> bool:
    """Whether a checkpoint is the end of its run; a recipe with a later end (`train.epochs` raised) makes it resumable, and so does
    another `train.stop_when` one that has stopped early."""
    train = progress["recipe"]["train"]
    same_end = (train["epochs"], train["max_steps"]) == (recipe.train.epochs, recipe.train.max_steps)
    if progress.get("stopped_early"):
        return bool(same_end and train["stop_when"] == recipe.train.stop_when.model_dump())
    return bool(same_end and progress["step"] >= progress["total_steps"] and not progress.get("evaluation_due"))


def _read_json(path: Path) -> JsonObject:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} is not a whole checkpoint: {path.name} is missing", "name a folder step-... of a run"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path.parent, f"{path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise _damaged(path.parent, f"{path.name} is not a JSON object")
    return content


def point(checkpoints: Path, name: str, checkpoint: Path) -> None:
    """Let the pointer `name` (latest, best) name a checkpoint; replaced by rename."""
    write_atomically(checkpoints / name, checkpoint.name + "\n")


def pointed(checkpoints: Path, name: str) -> Path | None:
    """The checkpoint that a pointer names, if it is there."""
    pointer = checkpoints / name
    if not pointer.is_file():
        return None
    target = checkpoints / pointer.read_text(encoding="utf-8", errors="replace").strip()
    return target if target.is_dir() and STEP_FOLDER.fullmatch(target.name) else None


def newest_whole(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not.

    Raises CheckpointError when there are checkpoints but none is whole.
    """
    skipped: list[str] = []
    found = list_checkpoints(checkpoints)
    for checkpoint in reversed(found):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            skipped.append(error.message)
            continue
        return checkpoint, skipped
    if found:
        raise CheckpointError(
            f"no checkpoint in {checkpoints} is whole:\n  " + "\n  ".join(skipped),
            f"take away files that do not belong there, or restore a copy; `inceptionctl checkpoints verify {checkpoints.parent}` looks again."
            " Nothing was deleted; a new training needs another --output",
        )
    return None, skipped


def prune(checkpoints: Path, newest: int, keep_last: int, keep_best: bool, kept: Iterable[int] = ()) -> None:
    """Delete checkpoints that nothing keeps (`superfluous`), and leftovers of killed writers."""
    for checkpoint in superfluous(checkpoints, newest, keep_last, keep_best, kept):
        delete(checkpoint)
    clear_leftovers(checkpoints)


def superfluous(checkpoints: Path, newest: int, keep_last: int, keep_best: bool, kept: Iterable[int] = ()) -> list[Path]:
    """Checkpoints that nothing keeps, oldest first.

    Kept are the `keep_last` newest up to step `newest`, the one that `best` names, and those of the steps in `kept`.
    Those after `newest` are damaged ones which a resume has passed over: left for people to look at, they count for nothing.
    """
    found = list_checkpoints(checkpoints)
    spared = set([path for path in found if step_of(path) <= newest][-keep_last:])
    spared |= {path for path in found if step_of(path) > newest or step_of(path) in set(kept)}
    best = pointed(checkpoints, "best")
    if keep_best and best:
        spared.add(best)
    return [path for path in found if path not in spared]


def leftovers(checkpoints: Path) -> list[Path]:
    """What killed writers have left half done, or living ones are writing."""
    return sorted(checkpoints.glob(".*.tmp"))


def clear_leftovers(checkpoints: Path) -> None:
    """Delete what killed writers have left half done. Only for who holds the run."""
    for leftover in leftovers(checkpoints):
        delete(leftover)


def is_kept_for_good(step: int, kept: Iterable[int], every_steps: float | None) -> bool:
    """Whether `step` is the first, since the last kept, at or after a multiple of `every_steps` (a fraction is fine)."""
    if every_steps is None:
        return False
    return math.floor(step / every_steps + 1e-9) > math.floor(max(kept, default=0) / every_steps + 1e-9)


def mend_pointers(checkpoints: Path, newest: Path) -> None:
    """Let `latest` and `best` name what `newest` knows of: a kill between a save and its pointers leaves older ones there."""
    best = read_progress(newest).get("best")
    named = {"latest": newest.name, "best": step_folder(checkpoints, int(best["step"])).name if best else None}
    for pointer, name in named.items():
        now = pointed(checkpoints, pointer)
        if name and (checkpoints / name).is_dir() and (now is None or now.name != name):
            point(checkpoints, pointer, checkpoints / name)


def delete(folder: Path) -> None:
    """Delete a checkpoint, or what is left of one."""
    # Renamed first: a deletion that is killed half way must not leave a folder that looks like a checkpoint.
    doomed = folder if folder.name.startswith(".") else folder.rename(folder.with_name(f".{folder.name}.tmp"))
    shutil.rmtree(doomed, ignore_errors=True) if doomed.is_dir() else doomed.unlink(missing_ok=True)


def resolve(path: Path) -> Iterator[Path]:
    """Candidates for what a user means by a path: a checkpoint itself, or a run's checkpoints, newest first."""
    if is_run(path):
        yield from reversed(list_checkpoints(path / "checkpoints"))
    else:
        yield path


def open_checkpoint(path: Path) -> Path:
    """The verified checkpoint that a path names: itself, or the newest of a run directory.

    Raises CheckpointError when there is none or it is damaged.
    """
    checkpoint = find_checkpoint(path)
    verify(checkpoint)
    return checkpoint


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path names, not verified yet. Raises CheckpointError when there is none."""
    with disk_errors(path):
        if not path.exists():
            raise CheckpointError(
                f"no run or checkpoint {path}", f"{did_you_mean(path)}`inceptionctl runs list` shows the runs"
            )
        checkpoint = next(resolve(path), None)
    if checkpoint is None:
        raise CheckpointError(
            f"{path} has no checkpoint yet", "train it first: `inceptionctl train RECIPE --output " + str(path) + "`"
        )
    if not (checkpoint / "progress.json").exists() and not STEP_FOLDER.fullmatch(checkpoint.name):
        raise CheckpointError(
            f"{path} is neither a run directory nor a checkpoint", "name a run, or a folder checkpoints/step-... in one"
        )
    return checkpoint
