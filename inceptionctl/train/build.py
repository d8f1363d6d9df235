"""How a training is put together, for its ranks and for the benches that measure it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.models import build_model
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.train.batch import BatchPlan, plan_batch
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.engine import Engine, build_clipping, deepspeed_config
from inceptionctl.train.inputs import loader_settings
from inceptionctl.train.job import Batches, Training
from inceptionctl.train.optim import WeightAverage, build_optimizer
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.step import HealthWatch, SharedStatistics, Stop, allow_tf32, resolve_precision
from inceptionctl.train.torch_compile import compile_network
from inceptionctl.train.unfreezing import NEVER, TrainedBlocks


def build_training(
    session: Session,
    recipe: Recipe,
    run: Run,
    images: tuple[ImageSet, ImageSet],
    signals: RankSignals,
    *,
    loader: Callable[[Training], Batches],
    open_log: Callable[[Progress], RunLog],
    prepare: Callable[[nn.Module], None] = lambda model: None,
    restore: Callable[[Engine, WeightAverage], Progress] = lambda engine, average: Progress(),
) -> Training:
    """A training of a recipe on `images` (to train and to validate on), as one rank of a session.

    `prepare` gets the network on the CPU, before anything is around it; `restore` puts engine and averages where the training begins, and
    says where that is; `open_log` is called last, when everything else is there. `loader` opens the batches when the loop begins.
    """
    loading = loader_settings(recipe, session.machine.device, session.machine.num_threads)
    batch = plan_batch(recipe.train.global_batch_size, session.world.size, recipe.train.micro_batch_size)
    _seed_everything(recipe.train.seed)
    model = build_model(**recipe.model.network())
    prepare(model)
    model.to(session.device)
    blocks = TrainedBlocks(model, recipe.model)
    engine = build_engine(recipe, model, batch, blocks)
    later = [blocks.first_trained_in(stage) for stage in range(1, blocks.last_stage + 1)]
    statistics = SharedStatistics(engine.model, session.world.size, blocks.first_trained_in(NEVER), later)
    average = WeightAverage(engine.model, recipe.train.ema_decay)
    compile_network(engine.model, recipe.train.compile, recipe.train.compile_mode)
    progress = restore(engine, average)
    log = open_log(progress)
    train_set, val_set = images
    return Training(
        session=session,
        recipe=recipe,
        run=run,
        precision=resolve_precision(recipe.train.precision, session.device),
        batch=batch,
        train_set=train_set,
        val_set=val_set,
        engine=engine,
        average=average,
        statistics=statistics,
        health=HealthWatch(engine.model, recipe.health, always=recipe.train.compile == "network"),
        blocks=blocks,
        progress=progress,
        log=log,
        writer=_checkpoint_writer(recipe, run, log),
        loader_settings=loading,
        bad=BadImages(recipe.data.max_bad_images),
        stop=Stop(signals, session.world.size, statistics.votes),
        loader=loader,
    )


def build_engine(recipe: Recipe, model: nn.Module, batch: BatchPlan, blocks: TrainedBlocks) -> Engine:
    """The engine and the optimizer of a recipe around a network on its device, to begin with stage 0 of its blocks."""
    torch.backends.cudnn.benchmark = recipe.train.cudnn_benchmark
    allow_tf32(recipe.train.tf32)
    optimizer = build_optimizer(model, recipe.optim, recipe.schedule.base_lr)
    blocks.add_groups(optimizer, recipe.optim)
    engine = Engine(
        model,
        optimizer,
        deepspeed_config(batch, recipe.train.zero_stage),
        clipping=build_clipping(recipe.optim),
        channels_last=recipe.train.channels_last,
    )
    blocks.enter(0)
    engine.trains_others()
    return engine


def _checkpoint_writer(recipe: Recipe, run: Run, log: RunLog) -> CheckpointWriter:
    wishes = recipe.checkpoint
    return CheckpointWriter(
        run.checkpoints,
        keep_last=wishes.keep_last,
        keep_best=wishes.keep_best,
        say=log.say,
        continue_on_error=wishes.on_write_error == "continue",
    )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
