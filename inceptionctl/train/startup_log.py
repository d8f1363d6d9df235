"""What a run says of its start and its end, and keeps of what it ran on."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import socket
import sys
from pathlib import Path

import numpy as np
import torch

from inceptionctl.console import JsonObject
from inceptionctl.cores import usable_cores
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.progressive import sizes_in_words
from inceptionctl.data.sampler import Repeats, Sampling, class_shares
from inceptionctl.data.sources.folders import passed_over_remark
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import append_json
from inceptionctl.train.batch import too_few_images
from inceptionctl.train.job import Training
from inceptionctl.train.optim import learning_rate, schedule_in_words
from inceptionctl.train.start import Start, changes_of
from inceptionctl.train.torch_compile import IN_WORDS
from inceptionctl.words import best_in_words, counted


def greet(job: Training, start: Start) -> None:
    """Say on rank 0 what is trained and where it starts, and add this start to environment.json."""
    if job.world.rank != 0:
        return
    append_json(job.run.environment_file, environment(job))
    log, recipe, progress = job.log, job.recipe, job.progress
    for remark in start.remarks:
        log.say(remark)
    log.say(f"run {job.run.path}")
    subset = recipe.evaluate.subset
    chosen = "" if subset == "all" else f"{subset} "
    log.say(
        f"data {recipe.data.root}: {len(job.train_set):,} training and {counted(len(job.val_set), f'{chosen}validation image')},"
        f" {len(progress.classes):,} classes"
    )
    passed = passed_over_remark((job.train_set, job.val_set))
    if passed:
        log.say(f"warning: {passed}: `inceptionctl data check {recipe.data.root}` says more")
    few = too_few_images(len(job.train_set), job.batch)
    if few:
        log.say(f"warning: {few[0]}; {few[1]}")
    layout = (", channels_last" if recipe.train.channels_last else "") + IN_WORDS[recipe.train.compile]
    tf32 = ", TF32 for fp32" if recipe.train.tf32 and job.device.type == "cuda" else ""
    where = f"{job.device.type.upper()}, {job.precision}{tf32}{layout}"
    zero = f", ZeRO stage {recipe.train.zero_stage}" if recipe.train.zero_stage else ""
    log.say(f"batch {job.batch.in_words()} on {where}{zero}")
    if recipe.train.compile != "none":
        log.say("the first step compiles, which takes minutes unless torch finds it compiled (TORCHINDUCTOR_CACHE_DIR)")
    if recipe.train.stop_when.patience_epochs is not None and not recipe.checkpoint.keep_best:
        log.say(
            "warning: train.stop_when goes past the best validation, whose checkpoint checkpoint.keep_best=false does not keep"
        )
    if recipe.data.sampling != "natural":
        log.say(sampling_in_words(job.train_set, recipe.data.sampling))
    if recipe.data.augment.repeats > 1:
        repeats = Repeats(recipe.data.augment.repeats, job.batch.global_batch_size)
        images = counted(repeats.num_images, "different image")
        log.say(
            f"repeated augmentation: a step takes {images}, each {repeats.times} times; an epoch sees 1/{repeats.times} of all"
        )
    if job.class_weights is not None:
        log.say(_weights_in_words(job.class_weights.tolist(), progress.classes, recipe.train.class_weights == "balanced"))
    if recipe.data.sampling == "balanced" and recipe.train.class_weights == "balanced":
        log.say(
            "warning: data.sampling and train.class_weights both balance the classes: the rare ones count more than the others"
        )
    if frozen := recipe.model.frozen_in_words(progress.step / job.steps_per_epoch):
        log.say(f"frozen: {frozen}")
    if recipe.train.progressive_resizing:
        log.say(f"images {sizes_in_words(recipe.train.progressive_resizing, recipe.model.input_px)}")
    log.say(f"learning rate {schedule_in_words(recipe.schedule, recipe.train.epochs)}")
    if start.checkpoint:
        log.say(f"resuming from {start.checkpoint}: step {progress.step} of {progress.total_steps}, epoch {progress.epoch:.2f}")
    if progress.best and not progress.best_on(subset):
        log.say(f"validates on other images than before ({subset}): the first of these validations counts as the best so far")
    for first, last in progress.skipped:
        log.say(f"skips batches {first} to {last} of the stream, where it has diverged before")


def sampling_in_words(images: ImageSet, sampling: Sampling) -> str:
    """How often an epoch takes an image of the largest and of the smallest class."""
    counts = np.bincount(images.labels, minlength=len(images.classes))
    shares = class_shares(images.labels, sampling)
    large, small = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    words = (f"{len(images) * shares[k] / counts[k]:.3g} times of {images.classes[k]}" for k in (large, small))
    return f"sampling {sampling}: an epoch takes each image {' and '.join(words)} in the mean"


def _weights_in_words(weights: list[float], classes: list[str], balanced: bool) -> str:
    ranked = sorted((weight, name) for weight, name in zip(weights, classes, strict=True) if weight)
    (low, common), (high, rare) = ranked[0], ranked[-1]
    return f"class weights{' balanced' if balanced else ''}: from {low:.3g} ({common}) to {high:.3g} ({rare})"


def changes_in_words(start: Start, recipe: Recipe, step: int, steps_per_epoch: float) -> list[str]:
    """What this start does otherwise than the last one in the same directory, and what becomes of the learning rate at `step`."""
    changes = changes_of(start, recipe)
    if start.recipe_before is None or not changes:
        return []
    words = [f"changed since the last start: {change}" for change in changes]
    then, now = (
        learning_rate(each.schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=each.train.epochs)
        for each in (start.recipe_before, recipe)
    )
    if start.checkpoint and then != now:
        words.append(f"the learning rate jumps with that: at step {step} it was going to be {then:.4g}, and is {now:.4g}")
    return words


def environment(job: Training) -> JsonObject:
    """What a start ran on, for environment.json."""
    gpus = (
        [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if job.device.type == "cuda" else []
    )
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": versions(),
        "cores": usable_cores(),
        "threads_per_rank": torch.get_num_threads(),
        "gpus": gpus,
        "ranks": job.world.size,
        "micro_batch_size": job.batch.micro_batch_size,
        "accumulation": job.batch.accumulation,
        "compile": job.recipe.train.compile,
        "zero_stage": job.recipe.train.zero_stage,
        "precision": job.precision,
        "tf32": job.recipe.train.tf32,
        "from_step": job.progress.step,
        "slurm": _slurm_job(),
    }


def _slurm_job() -> dict[str, int] | None:
    """Number of the job and how often Slurm has restarted it; None outside of Slurm."""
    job, restart = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return {"job": int(job), "restart": int(restart) if restart.isdigit() else 0} if job.isdigit() else None


def farewell(job: Training) -> str:
    """How far the run came, and its best error with the images that it is of."""
    reached = f"; best {best_in_words(job.progress.best)}" if job.progress.best else ""
    return f"finished: {counted(job.progress.step, 'step')}, {job.progress.epoch:.2f} epochs{reached}"


def versions() -> dict[str, str]:
    """Versions of what decides a result, for environment.json."""
    names = ("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130", "numpy", "safetensors")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
