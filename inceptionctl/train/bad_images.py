"""What the ranks of a run know of unreadable images: told to all, written down once."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist

from inceptionctl.data.bad_images import BadImages
from inceptionctl.distributed.world import World
from inceptionctl.errors import CheckpointError, DataError, RelayedError
from inceptionctl.run import Run
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.train.runlog import RunLog

Pairs = list[tuple[str, str]]


def read_bad_images(run: Run) -> Pairs:
    """(name, reason) of the images that earlier starts of a run could not read; they are not reported again."""
    if not run.bad_images_file.exists():
        return []
    try:
        return [
            (str(item["image"]), str(item["reason"])) for item in json.loads(run.bad_images_file.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(
            f"{run.bad_images_file} is no list of images with reasons", "move it away: the images are found again"
        ) from None


def share_bad_images(bad: BadImages, root: Path, world: World, run: Run, log: RunLog) -> None:
    """Tell all ranks what each has found; a collective call. Raises DataError on rank 0, and its relay elsewhere, when it is too much."""
    mine = bad.take_fresh()
    found: list[Pairs] = [mine]
    if world.size > 1:
        found = [[] for _ in range(world.size)]
        dist.all_gather_object(found, mine)
    fresh = [*found[0], *bad.add(pair for part in found for pair in part)]
    if world.rank == 0 and fresh:
        _write(run, fresh, log)
    try:
        bad.check(root)
    except DataError as error:
        if world.rank != 0:  # they know the same; one message is enough
            raise RelayedError(error.exit_code) from None
        raise


def _write(run: Run, fresh: Pairs, log: RunLog) -> None:
    for name, reason in fresh:
        log.say(f"an image is left out: {name}: {reason}")
    items = [{"image": name, "reason": reason} for name, reason in [*read_bad_images(run), *fresh]]
    with disk_errors(run.bad_images_file):
        write_atomically(run.bad_images_file, json.dumps(items, indent=2) + "\n")
