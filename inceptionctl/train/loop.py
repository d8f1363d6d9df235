"""The training loop, to be read in one sitting."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import Batch, EvalLoader, TrainLoader, share_in_batches
from inceptionctl.data.sampler import BatchSampler
from inceptionctl.errors import DivergedError, ResumeLater
from inceptionctl.evaluate.preparation import preparation_of
from inceptionctl.evaluate.scoring import score
from inceptionctl.launch.world import World
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.bad_images import share_bad_images
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.batch_norm import SharedStatistics
from inceptionctl.train.checkpoint import Best, Progress
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.ema import WeightAverage
from inceptionctl.train.engine import Engine, on_rank_zero
from inceptionctl.train.health import HealthWatch
from inceptionctl.train.heartbeat import Heartbeat
from inceptionctl.train.loading import train_transforms
from inceptionctl.train.loss import training_loss
from inceptionctl.train.memory import PeakMemory
from inceptionctl.train.optim import compile_beside
from inceptionctl.train.precision import Precision, autocast
from inceptionctl.train.rollback import roll_back
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.schedule import learning_rate
from inceptionctl.train.stopping import Stop
from inceptionctl.train.window import Window
from inceptionctl.words import counted, error_and_accuracy, has_top5


class Batches(Protocol):
    """Micro batches in the order of the training."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Free what reads and decodes."""


@dataclass
class Training:
    """Everything that the loop works on, ready to go (train/rank.py makes it)."""

    recipe: Recipe
    run: Run
    world: World
    device: torch.device
    precision: Precision
    batch: BatchPlan
    train_set: ImageSet
    val_set: ImageSet
    engine: Engine
    average: WeightAverage
    statistics: SharedStatistics
    health: HealthWatch
    frozen: Sequence[nn.Module]
    progress: Progress
    log: RunLog
    writer: CheckpointWriter
    loader_settings: LoaderSettings
    bad: BadImages
    stop: Stop
    heartbeat: Heartbeat
    loader: Callable[[Training], Batches]
    """Opens the batches from `progress` on: `train_loader`, but for `inceptionctl bench step`."""

    def __post_init__(self) -> None:
        # Of the whole start: a rollback begins other windows.
        self.memory = PeakMemory(self.device)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of one pass over the images; not a whole number in general."""
        return len(self.train_set) / self.batch.global_batch_size


def train(job: Training) -> None:
    """Train from `job.progress` to the end.

    When loss, gradient or weights are not finite, or the network has died, goes back to the last good checkpoint and on from there as
    a resume would, if the recipe says so (train/rollback.py); else raises DivergedError.
    Raises ResumeLater on all ranks after the same step when a signal has asked any of them to stop; that step is saved then.
    """
    try:
        while not _reaches_the_end(job):
            pass
        job.writer.finish()
    finally:
        job.writer.settle()


def _reaches_the_end(job: Training) -> bool:
    try:
        _train_on(job)
    except DivergedError as found:
        job.heartbeat.goes_on("goes back", job.progress.step)
        roll_back(job, found)
        return False
    return True


def _train_on(job: Training) -> None:
    recipe, progress, engine = job.recipe, job.progress, job.engine
    loader = job.loader(job)
    window = Window(
        world=job.world,
        run=job.run,
        progress=progress,
        batch=job.batch,
        engine=engine,
        health=job.health,
        log=job.log,
        writer=job.writer,
        device=job.device,
        memory=job.memory,
        epochs=recipe.train.epochs,
        bad=job.bad,
        data_root=job.train_set.root,
    )
    window.go_on(progress.window)
    progress.window = {}
    try:
        if progress.evaluation_due:
            _catch_up(job, window)
        batches = iter(loader)
        compile_beside(engine.optimizer)
        # Once, since it takes the host a millisecond: whatever validates has a network of its own.
        engine.model.train()
        for block in job.frozen:
            block.eval()
        to_compile = recipe.train.compile != "none"
        for step in range(progress.step, progress.total_steps):
            job.heartbeat.goes_on("trains", step)
            rate, position = _rate(job, step), progress.batch
            engine.set_learning_rate(rate)
            evaluate_now = _is_due(job, step + 1, recipe.evaluate.every_epochs, None)
            save_now = _is_due(job, step + 1, recipe.checkpoint.every_epochs, recipe.checkpoint.every_steps)
            row_now = evaluate_now or save_now or _is_due(job, step + 1, None, recipe.train.log_every_steps)
            for micro in range(job.batch.accumulation):
                with job.heartbeat.doing("reads images"):
                    batch = window.wait_for(batches)
                # Dropout too is a function of the place in the stream, so that a resumed run drops the same features, on any
                # number of ranks whose micro batches are as large.
                torch.manual_seed(noise_seed(recipe.train.seed, position, job.world.rank * job.batch.accumulation + micro))
                job.health.listen(row_now and micro == job.batch.accumulation - 1)
                # Compiling takes minutes, in which nobody waits for anybody.
                with job.heartbeat.doing("compiles") if to_compile else contextlib.nullcontext():
                    with autocast(job.precision, job.device):
                        output = engine.forward(batch.images)
                    loss, reported = training_loss(
                        output,
                        batch.labels,
                        label_smoothing=recipe.train.label_smoothing,
                        aux_loss_weight=recipe.train.aux_loss_weight,
                    )
                    engine.backward(loss)
                to_compile = False
                engine.step()
                window.add(reported)
            job.stop.vote()
            job.statistics.average()
            job.average.update(engine.model)
            progress.step = step + 1
            progress.epoch = progress.step / job.steps_per_epoch
            progress.ema_updates = job.average.num_updates

            if row_now:
                window.close(rate, saves=evaluate_now or save_now)
            else:
                job.log.progress(window.line(rate), window_ended=False)
            stop = job.stop.is_agreed()
            progress.evaluation_due = evaluate_now
            best_now = evaluate_now and not stop and _validate(job)
            wanted = save_now or (best_now and recipe.checkpoint.keep_best)
            saved = wanted and not (job.health.suspects or progress.evaluation_due)
            if saved:
                _save(job)
            if evaluate_now or save_now:
                window.restart()
                stop = stop or job.stop.ask_all()
            if stop:
                _leave(job, window, saved)
    finally:
        loader.close()


def noise_seed(seed: int, batch: int, micro: int) -> int:
    """Seed of the random numbers of one pass: of micro batch number `micro` of a whole batch of the stream."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<4q", seed, batch, micro, 0), digest_size=8).digest()) >> 1


def is_due(step: int, last_step: int, every_steps: float | None) -> bool:
    """Whether something done every so many steps (a fraction is fine) is due after `step`; always due after the last."""
    if step == last_step:
        return True
    if every_steps is None:
        return False
    return math.floor(step / every_steps + 1e-9) > math.floor((step - 1) / every_steps + 1e-9)


def _is_due(job: Training, step: int, every_epochs: float | None, every_steps: int | None) -> bool:
    last = job.progress.total_steps
    by_epoch = None if every_epochs is None else every_epochs * job.steps_per_epoch
    return is_due(step, last, by_epoch) or is_due(step, last, every_steps)


def _rate(job: Training, step: int) -> float:
    return learning_rate(job.recipe.schedule, step=step, steps_per_epoch=job.steps_per_epoch, epochs=job.recipe.train.epochs)


def train_loader(job: Training) -> TrainLoader:
    """The recipe's training images, read and changed as it says."""
    batches = BatchSampler(
        seed=job.recipe.train.seed,
        global_batch_size=job.batch.global_batch_size,
        micro_batch_size=job.batch.micro_batch_size,
        rank=job.world.rank,
        world_size=job.world.size,
        start_step=job.progress.step,
        num_steps=job.progress.total_steps,
        skipped=job.progress.skipped,
    )
    return TrainLoader(job.train_set, batches, train_transforms(job.recipe), job.loader_settings, bad=job.bad)


def _validate(job: Training) -> bool:
    """Score the averaged weights on the validation images, each exactly once over the ranks. Whether it is the best so far.

    When a rank is asked to stop, it is given up on all of them, and `progress.evaluation_due` stays.
    """
    start = time.perf_counter()
    share = share_in_batches(len(job.val_set), job.recipe.evaluate.batch_size, job.world.rank, job.world.size)
    loader = EvalLoader(job.val_set, share, preparation_of(job.recipe), job.loader_settings, bad=job.bad)
    try:
        with job.heartbeat.doing("validates"):
            batches = itertools.takewhile(lambda _: _goes_on(job), loader)
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


def _goes_on(job: Training) -> bool:
    """Whether to validate another batch on this rank."""
    job.heartbeat.goes_on("validates")
    return not job.stop.requested


def _catch_up(job: Training, window: Window) -> None:
    """Do the validation that a signal has cut short, and write its checkpoint again, with the result."""
    _validate(job)
    if not job.progress.evaluation_due:
        _save(job)
        job.writer.wait()
    if job.stop.ask_all():
        _leave(job, window, saved=files.step_folder(job.run.checkpoints, job.progress.step).is_dir())


def _leave(job: Training, window: Window, saved: bool) -> NoReturn:
    """Save this step unless that is done, and end all ranks together: a launcher kills the others when the first has ended."""
    job.progress.window = window.kept()
    began = time.perf_counter()
    # Whether it is needed, rank 0 knows; all take part before, since the others wait for its answer.
    state = job.engine.state.tensors()

    def save() -> None:
        if not saved and not job.health.suspects:
            if window.is_sound(job.progress.window):
                _write(job, state, began)
            else:
                job.log.say("the numbers since the last row are not finite: this step is not saved")
        job.writer.finish()

    on_rank_zero(job.world, job.device, save)
    last = files.pointed(job.run.checkpoints, "latest")
    job.log.say(
        f"stopped by a signal after step {job.progress.step};"
        f" the same command goes on {f'from {last}' if last else 'from the beginning'}"
    )
    raise ResumeLater("")


def _save(job: Training) -> None:
    """Save on rank 0, with the parts of the optimizer's state that the others hold: all ranks call this."""
    began = time.perf_counter()
    state = job.engine.state.tensors()
    if job.world.rank == 0:
        _write(job, state, began)


def _write(job: Training, state: Mapping[str, Tensor], began: float) -> None:
    progress, every = job.progress, job.recipe.checkpoint.keep_every_epochs
    if files.is_kept_for_good(progress.step, progress.kept, None if every is None else every * job.steps_per_epoch):
        progress.kept.append(progress.step)
    with job.heartbeat.doing("saves"):
        job.writer.save(job.engine.model, job.average, state, progress, began)
