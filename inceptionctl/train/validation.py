"""The averaged weights on the validation images, within a training: each image once over the ranks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn import functional

from inceptionctl.data.loaders import Batch, EvalLoader, share_in_batches
from inceptionctl.distributed.heartbeat import State
from inceptionctl.train.checkpoint import Best
from inceptionctl.train.early_stopping import note_validation
from inceptionctl.train.inputs import preparation_of
from inceptionctl.train.job import Training, share_bad_images
from inceptionctl.train.step import autocast
from inceptionctl.words import counted, error_and_accuracy, has_top5, percent


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
            scores = _score(job, batches)
    finally:
        loader.close()
    share_bad_images(job)
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
    note_validation(job, {"top1_error": scores.top1_error, "loss": scores.loss})
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


@dataclass(frozen=True)
class Scores:
    """Sums over images, over all ranks; `loss_sum` is of cross entropy without smoothing."""

    num_images: int
    loss_sum: float
    top1_correct: int
    top5_correct: int

    @property
    def top1_error(self) -> float:
        """Percent of images whose likeliest class is wrong."""
        return percent(self.num_images - self.top1_correct, self.num_images)

    @property
    def top5_error(self) -> float:
        """Percent of images whose class is not among the five likeliest (all, where there are fewer)."""
        return percent(self.num_images - self.top5_correct, self.num_images)

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return self.loss_sum / self.num_images


@torch.inference_mode()
def _score(job: Training, batches: Iterable[Batch]) -> Scores:
    """Run the averaged network over this rank's batches and sum up over all ranks; a collective call.

    Counts are integers and the loss is summed in float64, so that unequal shares of the ranks weigh as they should.
    """
    model = job.average.model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=job.device)
    count = 0
    for batch in batches:
        with autocast(job.precision, job.device):
            logits = model(batch.images)
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == batch.labels[:, None]
        loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        sums[:3] += torch.stack([loss.double(), hits[:, 0].sum().double(), hits.any(1).sum().double()])
        count += len(batch.labels)  # on the host: to send it to the GPU would be to wait for it
    sums[3] = count
    if job.world.size > 1:
        dist.all_reduce(sums)
    loss_sum, top1, top5, num_images = sums.tolist()
    return Scores(int(num_images), loss_sum, int(top1), int(top5))
