"""All that a training consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.world import World
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.batch_norm import SharedStatistics
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.ema import WeightAverage
from inceptionctl.train.engine import Engine
from inceptionctl.train.health import HealthWatch
from inceptionctl.train.memory import PeakMemory
from inceptionctl.train.precision import Precision
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.stopping import Stop


class Batches(Protocol):
    """Micro batches in the order of the training."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Free what reads and decodes."""


@dataclass
class Training:
    """Everything that the loop works on, ready to go (train/build.py makes it)."""

    session: Session
    recipe: Recipe
    run: Run
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
    loader: Callable[[Training], Batches]
    """Opens the batches from `progress` on: `train_loader` (train/loop.py), but for `inceptionctl bench step`."""

    def __post_init__(self) -> None:
        # Of the whole start: a rollback begins other windows.
        self.memory = PeakMemory(self.device)

    @property
    def world(self) -> World:
        """Which rank this is."""
        return self.session.world

    @property
    def device(self) -> torch.device:
        """What it computes on."""
        return self.session.device

    @property
    def heartbeat(self) -> Heartbeat:
        """Its sign of life."""
        return self.session.heartbeat

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of one pass over the images; not a whole number in general."""
        return len(self.train_set) / self.batch.global_batch_size
