"""The training loop, to be read in one sitting."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor

from inceptionctl.data.loaders import TrainLoader
from inceptionctl.data.progressive import ProgressiveLoader, stages
from inceptionctl.data.sampler import BatchSampler
from inceptionctl.distributed.heartbeat import State
from inceptionctl.errors import DivergedError, ResumeLater
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.inputs import train_transforms
from inceptionctl.train.job import Training, Window
from inceptionctl.train.optim import compile_beside, learning_rate
from inceptionctl.train.rollback import roll_back
from inceptionctl.train.step import autocast, noise_seed, training_loss
from inceptionctl.train.validation import validate


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
        job.heartbeat.enter(State.ROLLS_BACK, job.progress.step)
        roll_back(job, found)
        return False
    return True


def _train_on(job: Training) -> None:
    recipe, progress, engine = job.recipe, job.progress, job.engine
    compiles = recipe.train.compile != "none"
    loader, window = job.loader(job), Window(job)
    try:
        if progress.evaluation_due:
            _catch_up(job, window)
            if _has_stopped_early(job):
                return
        batches = iter(loader)
        compile_beside(engine.optimizer)
        # Once, since it takes the host a millisecond: whatever validates has a network of its own.
        job.blocks.set_modes()
        compiled_for = torch.Size()
        for step in range(progress.step, progress.total_steps):
            job.heartbeat.enter(State.TRAINS, step)
            if job.take_blocks(step):
                compiled_for = torch.Size()
            rate, position = _rate(job, step), progress.batch
            engine.set_learning_rate(rate)
            evaluate_now = _is_due(job, step + 1, recipe.evaluate.every_epochs, None)
            save_now = _is_due(job, step + 1, recipe.checkpoint.every_epochs, recipe.checkpoint.every_steps)
            row_now = evaluate_now or save_now or _is_due(job, step + 1, None, recipe.train.log_every_steps)
            for micro in range(job.batch.accumulation):
                with job.heartbeat.during(State.READS_IMAGES):
                    batch = window.wait_for(batches)
                # Dropout too is a function of the place in the stream, so that a resumed run drops the same features, on any
                # number of ranks whose micro batches are as large.
                torch.manual_seed(noise_seed(recipe.train.seed, position, job.world.rank * job.batch.accumulation + micro))
                job.health.listen(row_now and micro == job.batch.accumulation - 1)
                # Compiling takes minutes, in which nobody waits for anybody.
                to_compile = compiles and batch.images.shape != compiled_for
                with job.heartbeat.during(State.COMPILES) if to_compile else contextlib.nullcontext():
                    with autocast(job.precision, job.device):
                        output = engine.forward(batch.images)
                    loss, reported = training_loss(
                        output,
                        batch.labels,
                        batch.mixed,
                        kind=recipe.train.loss,
                        label_smoothing=recipe.train.label_smoothing,
                        aux_loss_weight=recipe.train.aux_loss_weight,
                        class_weights=job.class_weights,
                    )
                    engine.backward(loss)
                compiled_for = batch.images.shape
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
            best_now = evaluate_now and not stop and validate(job)
            wanted = save_now or (best_now and recipe.checkpoint.keep_best) or bool(progress.stopped_early)
            saved = wanted and not (job.health.suspects or progress.evaluation_due)
            if saved:
                _save(job)
            if evaluate_now or save_now:
                window.restart()
                stop = stop or job.stop.ask_all()
            if stop:
                _leave(job, window, saved)
            if evaluate_now and _has_stopped_early(job):
                return
    finally:
        loader.close()


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


def train_loader(job: Training) -> TrainLoader | ProgressiveLoader:
    """The recipe's training images, read and changed as it says."""
    recipe, images = job.recipe, job.train_set
    batches = BatchSampler(
        seed=recipe.train.seed,
        global_batch_size=job.batch.global_batch_size,
        micro_batch_size=job.batch.micro_batch_size,
        rank=job.world.rank,
        world_size=job.world.size,
        start_step=job.progress.step,
        num_steps=job.progress.total_steps,
        skipped=job.progress.skipped,
        sampling=recipe.data.sampling,
        repeats=recipe.data.augment.repeats,
    )
    transforms = train_transforms(recipe)
    if not recipe.train.progressive_resizing:
        return TrainLoader(images, batches, transforms, job.loader_settings, bad=job.bad)

    def opened(part: BatchSampler, px: int) -> TrainLoader:
        if part.start_step > batches.start_step:
            job.log.say(f"epoch {part.start_step / job.steps_per_epoch:.2f}: trains on images of {px} px from here on")
        return TrainLoader(images, part, replace(transforms, input_px=px), job.loader_settings, bad=job.bad)

    return ProgressiveLoader(stages(batches, len(images), recipe.train.progressive_resizing, recipe.model.input_px), opened)


def _catch_up(job: Training, window: Window) -> None:
    """Do the validation that a signal has cut short, and write its checkpoint again, with the result."""
    validate(job)
    if not job.progress.evaluation_due:
        _save(job)
        job.writer.wait()
    if job.stop.ask_all():
        _leave(job, window, saved=files.step_folder(job.run.checkpoints, job.progress.step).is_dir())


def _has_stopped_early(job: Training) -> bool:
    if job.progress.stopped_early:
        job.log.say(f"stops early at epoch {job.progress.epoch:.2f}: {job.progress.stopped_early}")
    return bool(job.progress.stopped_early)


def _leave(job: Training, window: Window, saved: bool) -> NoReturn:
    """Save this step unless that is done, and end all ranks together: a launcher kills the others when the first has ended."""
    job.progress.window = window.state_dict()
    began = time.perf_counter()
    # Whether it is needed, rank 0 knows; all take part before, since the others wait for its answer.
    state = job.engine.state.state_dict()

    def save() -> None:
        if not saved and not job.health.suspects:
            if window.is_sound(job.progress.window):
                _write(job, state, began)
            else:
                job.log.say("the numbers since the last row are not finite: this step is not saved")
        job.writer.finish()

    job.session.on_rank_zero(save)
    last = files.pointed(job.run.checkpoints, "latest")
    job.log.say(
        f"stopped by a signal after step {job.progress.step};"
        f" rerun the same command to resume {f'from {last}' if last else 'from the beginning'}"
    )
    raise ResumeLater("")


def _save(job: Training) -> None:
    """Save on rank 0, with the parts of the optimizer's state that the others hold: all ranks call this."""
    began = time.perf_counter()
    state = job.engine.state.state_dict()
    if job.world.rank == 0:
        _write(job, state, began)


def _write(job: Training, state: Mapping[str, Tensor], began: float) -> None:
    progress, every = job.progress, job.recipe.checkpoint.keep_every_epochs
    if files.is_kept_for_good(progress.step, progress.kept, None if every is None else every * job.steps_per_epoch):
        progress.kept.append(progress.step)
    with job.heartbeat.during(State.SAVES):
        job.writer.save(job.engine.model, job.average, state, progress, began)
