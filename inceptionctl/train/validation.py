"""The averaged weights on the validation images, within a training."""

from __future__ import annotations

import itertools
import math
import time

from inceptionctl.data.loaders import EvalLoader, share_in_batches
from inceptionctl.distributed.heartbeat import State
from inceptionctl.train.bad_images import share_bad_images
from inceptionctl.train.checkpoint import Best
from inceptionctl.train.loading import preparation_of
from inceptionctl.train.scoring import score
from inceptionctl.train.training import Training
from inceptionctl.words import counted, error_and_accuracy, has_top5


def validate(job: Training) -> bool:
    """Score the averaged weights on the validation images, each exactly once over the ranks. Whether it is the best so far.

    When a rank is asked to stop, it is given up on all of them, and `progress.evaluation_due` stays.
    """
    start = time.perf_counter()
    share = share_in_batches(len(job.val_set), job.recipe.evaluate.batch_size, job.world.rank, job.world.size)
    loader = EvalLoader(job.val_set, share, preparation_of(job.recipe), job.loader_settings, bad=job.bad)
    try:
        with job.heartbeat.during(State.VALIDATES):
            batches = itertools.takewhile(lambda _: _continues(job), loader)
            scores = score(job.average.model, batches, device=job.device, precision=job.precision, num_ranks=job.world.size)
    finally:
        loader.close()
    share_bad_images(job.bad, job.train_set.root, job.world, job.run, job.log)
    if job.stop.ask_all():
        return False
    job.progress.evaluation_due = False
    seconds = time.perf_counter() - start
    subset = job.recipe.evaluate.subset
    result: Best = {"top1_error": scores.top1_error, "top5_error": scores.top5_error, "loss": scores.loss}
    images = {"num_images": scores.num_images, "subset": subset}
    job.log.row("evaluate", {"step": job.progress.step, "epoch": job.progress.epoch, **result, **images})
    top5 = f", top-5 error {scores.top5_error:.2f}%" if has_top5(len(job.progress.classes)) else ""
    counted_images = counted(scores.num_images, "image" if subset == "all" else f"{subset} image")
    job.log.say(
        f"validation at epoch {job.progress.epoch:.2f}: top-1 error {error_and_accuracy(scores.top1_error)}{top5},"
        f" loss {scores.loss:.4f} ({counted_images}, EMA weights, {seconds:.1f} s)"
    )
    best, by = job.progress.best_on(subset), job.recipe.checkpoint.best_by
    # Written so that a loss which is not a number, as the best so far, gives way to any number.
    is_best = not best or (result[by] < math.inf and not best[by] <= result[by])
    if is_best:
        job.progress.best = {"step": job.progress.step, **result, "subset": subset}
    return is_best


def _continues(job: Training) -> bool:
    """Whether to validate another batch on this rank."""
    job.heartbeat.enter(State.VALIDATES)
    return not job.stop.requested
