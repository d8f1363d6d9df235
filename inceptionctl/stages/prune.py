"""What the checkpoints of finished runs take of the disk and can be spared, and its removal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import CheckpointError

if TYPE_CHECKING:
    from inceptionctl.console import JsonObject
    from inceptionctl.run import Run


def plan(runs: Sequence[Path], *, keep: int = 1, permanent: bool = False) -> JsonObject:
    """What `prune` would remove of run directories; nothing is changed.

    Of a finished run all checkpoints can be spared but the `keep` newest, the best, and, unless `permanent`, those that
    checkpoint.keep_every_epochs keeps. A run that is not finished, or whose newest checkpoint fails its checksums, keeps all, and
    `left_alone` says why.

    Returns {"runs": [{"path", "remove": [{"name", "bytes"}], "keep": [names], "bytes", "left_alone"}], "bytes": their sum}.
    """
    from inceptionctl.run import Run

    entries = [_entry(Run(path), keep, permanent) for path in runs]
    return {"runs": entries, "bytes": sum(entry["bytes"] for entry in entries)}


def prune(planned: JsonObject, *, keep: int = 1, permanent: bool = False) -> JsonObject:
    """Remove what was `planned`; what was removed, in the same form.

    Each run is locked meanwhile, and what it needs by then, having been trained on, stays. Raises EnvironmentFault where the disk refuses.
    """
    entries = [_pruned(entry, keep, permanent) if entry["remove"] else entry for entry in planned["runs"]]
    return {"runs": entries, "bytes": sum(entry["bytes"] for entry in entries)}


def _entry(run: Run, keep: int, permanent: bool, *, is_locked_here: bool = False) -> JsonObject:
    from inceptionctl.run_contents import bytes_below, read_run
    from inceptionctl.train import checkpoint_files as files

    found = read_run(run)
    found.is_running = found.is_running and not is_locked_here
    spared: list[Path] = []
    left_alone = None if found.state == "finished" else f"{found.why}; only finished runs are pruned"
    try:
        spared = [] if left_alone else _to_spare(run, keep, permanent)
    except CheckpointError as error:
        left_alone = error.message
    sizes = [{"name": path.name, "bytes": bytes_below(path)} for path in spared]
    return {
        "path": str(run.path),
        "remove": sizes,
        "keep": [path.name for path in files.list_checkpoints(run.checkpoints) if path not in spared],
        "bytes": sum(item["bytes"] for item in sizes),
        "left_alone": left_alone,
    }


def _to_spare(run: Run, keep: int, permanent: bool) -> list[Path]:
    """Raises CheckpointError when the newest checkpoint is damaged: an older one may be what is left of the training."""
    from inceptionctl.train import checkpoint_files as files

    *_, newest = files.list_checkpoints(run.checkpoints)
    files.verify(newest)
    progress = files.read_progress(newest)
    best, kept = progress.get("best") or {}, () if permanent else progress.get("kept") or ()
    needed = {*kept, *([best["step"]] if "step" in best else [])}
    spared = files.superfluous(run.checkpoints, files.step_of(newest), keep, keep_best=True, kept=needed)
    return [*spared, *files.leftovers(run.checkpoints)]


def _pruned(entry: JsonObject, keep: int, permanent: bool) -> JsonObject:
    from inceptionctl.run import Run
    from inceptionctl.storage import disk_errors
    from inceptionctl.train import checkpoint_files as files
    from inceptionctl.train.lock import take_lock

    run = Run(Path(entry["path"]))
    try:
        lock, _ = take_lock(run)
    except CheckpointError as error:
        return {**entry, "remove": [], "bytes": 0, "left_alone": error.message}
    try:
        lock.truncate(0)  # nobody trains here
        now = _entry(run, keep, permanent, is_locked_here=True)
        planned = {item["name"] for item in entry["remove"]}
        removed = [item for item in now["remove"] if item["name"] in planned]
        for item in removed:
            with disk_errors(run.path):
                files.delete(run.checkpoints / item["name"])
    finally:
        lock.close()
    left = [path.name for path in files.list_checkpoints(run.checkpoints)]
    return {**now, "remove": removed, "keep": left, "bytes": sum(item["bytes"] for item in removed)}
