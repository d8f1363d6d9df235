"""Back to the last good checkpoint when a training has diverged, and on from there without the batches that it saw since."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from inceptionctl.console import JsonObject
from inceptionctl.errors import CheckpointError, DivergedError, RelayedError
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.storage import write_atomically
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, Rollback, load_checkpoint
from inceptionctl.train.job import Training
from inceptionctl.train.start import newest_of

ENTRY = {"step": int, "to_step": int, "first_batch": int, "last_batch": int, "reason": str}
# What this start has found out; the rest of a Progress is the checkpoint's.
OF_THIS_START = ("total_steps", "classes", "recipe", "num_train_images", "precision", "ranks", "stopped_early")
# With others the stream is another one, and its batches have nothing to do with those that were skipped.
OF_THE_STREAM = ("seed", "global_batch_size")


def roll_back(job: Training, found: DivergedError) -> None:
    """Put weights, averages, optimizer and position back to the last good checkpoint, on every rank; a collective call.

    The batches that the steps from there to the one where `found` was noticed have used, that one included, are skipped from now on.
    rollbacks.json tells so before anything else is done: a kill right after it changes nothing.

    Raises DivergedError on rank 0, and its relay elsewhere, when the recipe wants no rollback, or none more, or no checkpoint is there.
    """
    progress, wishes = job.progress, job.recipe.train
    if wishes.on_divergence == "stop" or len(progress.rollbacks) >= wishes.max_rollbacks:
        raise _given_up(job, found)

    def choose() -> JsonObject:
        job.writer.wait()
        checkpoint, skipped = newest_of(job.run)
        for sentence in skipped:
            job.log.say(f"passed over a damaged checkpoint: {sentence}")
        if checkpoint is None:
            raise DivergedError(
                f"{found.message}; there is no checkpoint to go back to yet",
                f"{found.hint}; or save sooner (checkpoint.every_steps)",
            )
        entry = _entry(progress, files.read_progress(checkpoint)["step"], found.message)
        write_atomically(job.run.rollbacks_file, json.dumps([*progress.rollbacks, entry], indent=2) + "\n")
        job.log.say(
            f"{found.message}: back to {checkpoint}, and on without batches {entry['first_batch']} to {entry['last_batch']}"
            f" of the stream (rollback {len(progress.rollbacks) + 1} of at most {wishes.max_rollbacks})"
        )
        return {"checkpoint": str(checkpoint), "entry": entry}

    choice = job.session.on_rank_zero(choose)
    checkpoint = Path(choice["checkpoint"])
    if job.world.rank == 0 and checkpoint.parent == job.run.checkpoints:
        files.mend_pointers(job.run.checkpoints, checkpoint)
    job.engine.optimizer.state.clear()
    loaded = load_checkpoint(checkpoint, job.engine.model, job.average, job.engine.state)
    kept = {name: getattr(progress, name) for name in OF_THIS_START}
    job.progress = dataclasses.replace(loaded, **kept, rollbacks=[*progress.rollbacks, choice["entry"]])
    job.health.num_bad_windows = 0
    job.log.go_back(job.progress.step, job.progress.evaluation_due)


def known_rollbacks(run: Run, progress: Progress, recipe: Recipe) -> list[Rollback]:
    """The rollbacks of a training that resumes from `progress`: the run's own file knows of those after that checkpoint too.

    A new run from a checkpoint of another, with another seed or global batch, has none: its stream is another one.
    Raises CheckpointError when the file was broken by hand.
    """
    was, now = progress.recipe.get("train", {}), recipe.train.model_dump()
    before = progress.rollbacks if all(was.get(key) == now[key] for key in OF_THE_STREAM) else []
    try:
        noted = json.loads(run.rollbacks_file.read_text(encoding="utf-8")) if run.rollbacks_file.exists() else []
        whole = isinstance(noted, list) and all(isinstance(each[key], kind) for each in noted for key, kind in ENTRY.items())
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{run.rollbacks_file} is no list of rollbacks",
            "move it away: the newest checkpoint holds those before it, and a later one is found again",
        )
    return max(before, list(noted), key=len)


def _entry(progress: Progress, to_step: int, reason: str) -> Rollback:
    first, last = (dataclasses.replace(progress, step=step).batch for step in (to_step, progress.step - 1))
    return {"step": progress.step, "to_step": to_step, "first_batch": first, "last_batch": last, "reason": reason}


def _given_up(job: Training, found: DivergedError) -> DivergedError | RelayedError:
    if job.world.rank != 0:  # the numbers are the same everywhere; one message is enough
        return RelayedError(DivergedError.exit_code)
    job.writer.settle()
    last = files.pointed(job.run.checkpoints, "latest")
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    wishes, number = job.recipe.train, len(job.progress.rollbacks)
    if wishes.on_divergence == "rollback":
        kept = f"the run has gone back {number} times, and train.max_rollbacks is {wishes.max_rollbacks}; {kept}"
    return DivergedError(f"{found.message}; {kept}", found.hint)
