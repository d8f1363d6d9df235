"""The training loop, to be read in one sitting."""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from inceptionctl import console
from inceptionctl.data.dataset import ImageFolder
from inceptionctl.data.loaders import Batch, EvalLoader, TrainLoader
from inceptionctl.errors import DivergedError, InceptionctlError
from inceptionctl.evaluate.preparation import preparation_of
from inceptionctl.evaluate.scoring import score
from inceptionctl.launch.world import World
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.batch_norm import SharedStatistics
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.ema import WeightAverage
from inceptionctl.train.engine import Engine, RelayedError
from inceptionctl.train.precision import Precision, autocast
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.schedule import learning_rate


@dataclass
class Training:
    """Everything that the loop works on, ready to go (train/rank.py makes it)."""

    recipe: Recipe
    run: Run
    world: World
    device: torch.device
    precision: Precision
    batch: BatchPlan
    train_set: ImageFolder
    val_set: ImageFolder
    engine: Engine
    average: WeightAverage
    statistics: SharedStatistics
    progress: Progress
    log: RunLog
    loader_options: dict[str, Any]

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of one pass over the images; not a whole number in general."""
        return len(self.train_set) / self.batch.global_batch_size


def train(job: Training) -> None:
    """Train from `job.progress` to the end. Raises DivergedError when the loss or the gradient is not finite."""
    recipe, progress, engine = job.recipe, job.progress, job.engine
    loader = _train_loader(job)
    window = Window(job)
    try:
        batches = iter(loader)
        for step in range(progress.step, progress.total_steps):
            rate = _rate(job, step)
            engine.set_learning_rate(rate)
            engine.model.train()
            for micro in range(job.batch.accumulation):
                batch = window.wait_for(batches)
                # Dropout too is a function of the position, so that a resumed run drops the same features.
                torch.manual_seed(noise_seed(recipe.train.seed, step, micro, job.world.rank))
                with autocast(job.precision, job.device):
                    logits = engine.forward(batch.images)
                loss = functional.cross_entropy(logits.float(), batch.labels, label_smoothing=recipe.train.label_smoothing)
                engine.backward(loss)
                engine.step()
                window.add(loss)
            job.statistics.average()
            job.average.update(engine.model)
            progress.step = step + 1
            progress.epoch = progress.step / job.steps_per_epoch
            progress.ema_updates = job.average.num_updates

            evaluate_now = _is_due(job, recipe.evaluate.every_epochs, None)
            save_now = _is_due(job, recipe.checkpoint.every_epochs, recipe.checkpoint.every_steps)
            if evaluate_now or save_now or _is_due(job, None, recipe.train.log_every_steps):
                window.close(rate)
            else:
                job.log.progress(window.line(rate), window_ended=False)
            best_now = evaluate_now and _validate(job)
            if save_now or (best_now and recipe.checkpoint.keep_best):
                _save(job)
            if evaluate_now or save_now:
                window.restart()
    finally:
        loader.close()


class Window:
    """Sums of a log window. The host waits for the device only when it is closed."""

    def __init__(self, job: Training) -> None:
        self._job = job
        self._loss: float | None = None
        self._norm: float | None = None
        self._speed: float | None = None
        self._waited_share = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin a window here: what came before (an evaluation, a save) does not count as training time."""
        self._sum = torch.zeros((), device=self._job.device)
        self._passes = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, with the time that it was waited for."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, loss: Tensor) -> None:
        """Count one pass; no wait for the device."""
        self._sum += loss.detach()
        self._passes += 1

    def close(self, rate: float) -> None:
        """Write the window's row, begin the next, and stop the training if its numbers are not finite."""
        job = self._job
        mean = self._sum / self._passes
        if job.world.size > 1:
            dist.all_reduce(mean)
        norm = job.engine.grad_norm
        numbers = [mean / job.world.size] if norm is None else [mean / job.world.size, norm.to(mean.dtype)]
        self._loss, *norms = torch.stack(numbers).tolist()
        self._norm = norms[0] if norms else None
        seconds = time.perf_counter() - self._began
        self._speed = self._passes * job.batch.micro_batch_size * job.world.size / seconds
        self._waited_share = self._waited / seconds
        row = {
            "step": job.progress.step,
            "epoch": job.progress.epoch,
            "loss": self._loss,
            "learning_rate": rate,
            "grad_norm": self._norm,
            "images_per_second": self._speed,
            "data_wait": self._waited_share,
        }
        job.log.row("train", {key: value if _is_finite(value) else str(value) for key, value in row.items()})
        job.log.progress(self.line(rate), window_ended=True)
        if not (_is_finite(self._loss) and _is_finite(self._norm)):
            raise _diverged(job, self._loss, self._norm)
        self.restart()

    def line(self, rate: float) -> str:
        """The live line, with the numbers of the last closed window."""
        progress = self._job.progress
        parts = [
            f"epoch {progress.epoch:.2f}/{self._job.recipe.train.epochs:g}",
            f"step {progress.step}/{progress.total_steps}",
        ]
        if self._loss is not None and self._speed is not None:
            parts.append(f"loss {self._loss:.4f}")
        parts.append(f"lr {rate:.3g}")
        if self._norm is not None:
            parts.append(f"norm {self._norm:.2f}")
        if self._speed is not None:
            left = (progress.total_steps - progress.step) * self._job.batch.global_batch_size / self._speed
            parts += [f"{self._speed:.0f} images/s", f"data wait {self._waited_share:.0%}", f"left {console.duration(left)}"]
        return "  ".join(parts)


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _diverged(job: Training, loss: float, norm: float | None) -> InceptionctlError:
    if job.world.rank != 0:  # the numbers are the same everywhere; one message is enough
        return RelayedError(DivergedError.exit_code)
    last = files.pointed(job.run.checkpoints, "latest")
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return DivergedError(
        f"loss {loss} and gradient norm {norm} are not finite at step {job.progress.step}; {kept}",
        "lower schedule.base_lr, add schedule.warmup_epochs or set optim.clip_global_norm; train.precision=fp32 tells whether it is rounding",
    )


def noise_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed of the random numbers of one pass of one rank."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<4q", seed, step, micro, rank), digest_size=8).digest()) >> 1


def is_due(step: int, last_step: int, every_steps: float | None) -> bool:
    """Whether something done every so many steps (a fraction is fine) is due after `step`; always due after the last."""
    if step == last_step:
        return True
    if every_steps is None:
        return False
    return math.floor(step / every_steps + 1e-9) > math.floor((step - 1) / every_steps + 1e-9)


def _is_due(job: Training, every_epochs: float | None, every_steps: int | None) -> bool:
    step, last = job.progress.step, job.progress.total_steps
    by_epoch = None if every_epochs is None else every_epochs * job.steps_per_epoch
    return is_due(step, last, by_epoch) or is_due(step, last, every_steps)


def _rate(job: Training, step: int) -> float:
    values = job.recipe.schedule.model_dump()
    return learning_rate(values, step=step, steps_per_epoch=job.steps_per_epoch, epochs=job.recipe.train.epochs)


def _train_loader(job: Training) -> TrainLoader:
    return TrainLoader(
        job.train_set,
        seed=job.recipe.train.seed,
        global_batch_size=job.batch.global_batch_size,
        micro_batch_size=job.batch.micro_batch_size,
        rank=job.world.rank,
        world_size=job.world.size,
        start_step=job.progress.step,
        num_steps=job.progress.total_steps,
        **job.loader_options,
    )


def _validate(job: Training) -> bool:
    """Score the averaged weights on the validation images, each exactly once over the ranks. Whether it is the best so far."""
    start = time.perf_counter()
    options = {key: job.loader_options[key] for key in ("num_threads", "device_id", "decode")}
    loader = EvalLoader(
        job.val_set,
        **preparation_of(job.recipe).options(),
        batch_size=job.recipe.evaluate.batch_size,
        rank=job.world.rank,
        world_size=job.world.size,
        **options,
    )
    try:
        scores = score(job.average.model, loader, device=job.device, precision=job.precision, num_ranks=job.world.size)
    finally:
        loader.close()
    seconds = time.perf_counter() - start
    result = {"top1_error": scores.top1_error, "top5_error": scores.top5_error, "loss": scores.loss}
    job.log.row("evaluate", {"step": job.progress.step, "epoch": job.progress.epoch, **result, "num_images": scores.num_images})
    job.log.say(
        f"validation at epoch {job.progress.epoch:.2f}: top-1 error {scores.top1_error:.2f}%, top-5 error {scores.top5_error:.2f}%,"
        f" loss {scores.loss:.4f} ({scores.num_images} images, EMA weights, {seconds:.1f} s)"
    )
    best = job.progress.best
    is_best = not best or scores.top1_error < best["top1_error"]
    if is_best:
        job.progress.best = {"step": job.progress.step, **result}
    return is_best


def _save(job: Training) -> None:
    """Save on rank 0; every rank holds the same."""
    if job.world.rank != 0:
        return
    start = time.perf_counter()
    folder = job.run.checkpoints
    saved = save_checkpoint(folder, job.engine.model, job.average, job.engine.optimizer, job.progress)
    if job.progress.best.get("step") == job.progress.step:
        files.point(folder, "best", saved)
    files.prune(folder, job.recipe.checkpoint.keep_last, job.recipe.checkpoint.keep_best)
    job.log.say(f"saved {saved} ({time.perf_counter() - start:.1f} s)")
