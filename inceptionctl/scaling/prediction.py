"""A predicted training step on a cluster: compute, communication, and the bottleneck."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inceptionctl.scaling.collectives import Cluster, all_gather_seconds, all_reduce_seconds
from inceptionctl.train.batch import BatchPlan

Limit = Literal["compute", "averaging", "data loading", "file system"]

GOOD = 0.95
"""Efficiency at which a batch is large enough: a larger one gains less than 5%."""
NOTICED = 0.9
"""Efficiency below which gradient averaging counts as the bottleneck."""


@dataclass(frozen=True)
class Compute:
    """Seconds of a pass over a micro batch on one GPU: forward, backward and optimizer, without communication."""

    per_image: float
    fixed: float = 0.0
    measured_images: int = 1
    """The smallest micro batch measured; smaller ones are extrapolated, and slower in reality."""

    def seconds(self, images: float) -> float:
        """Of one pass."""
        return self.fixed + self.per_image * images

    def images_for(self, seconds: float) -> float:
        """Images that keep the GPU busy for so long."""
        return max(0.0, (seconds - self.fixed) / self.per_image)


@dataclass(frozen=True)
class Traffic:
    """What the ranks exchange in one optimizer step, bytes."""

    gradients: float
    """fp32."""
    statistics: float
    """Batch norm's running means and variances, averaged after each step (train/step.py)."""
    bucket: float
    """Bytes of a call at most."""
    gathers: bool = False
    """Whether ZeRO stage 1 all-gathers the new weights afterwards, as many bytes."""
    hidden: float = 0.0
    """Share of the exchange that overlaps the backward pass, which is two thirds of the last pass."""

    def seconds(self, cluster: Cluster) -> float:
        """Of a step's exchange, one call after the other."""
        whole, rest = divmod(self.gradients, self.bucket)
        averaging = whole * all_reduce_seconds(self.bucket, cluster) + (all_reduce_seconds(rest, cluster) if rest else 0.0)
        gathering = all_gather_seconds(self.gradients, cluster) if self.gathers else 0.0
        return averaging + gathering + all_reduce_seconds(self.statistics, cluster)


@dataclass(frozen=True)
class Supply:
    """Data supply."""

    loader: float = math.inf
    """Images a second that the processor cores of one GPU prepare."""
    file_system: float = math.inf
    """Images a second that the file system gives to all ranks together."""


@dataclass(frozen=True)
class Step:
    """A predicted step; seconds."""

    compute: float
    exchange: float
    """All communication, hidden or not."""
    exposed: float
    """The part that the GPUs wait for."""
    loading: float
    reading: float
    images: int
    alone: float
    """The step of one GPU with this share of the batch, without communication."""

    @property
    def seconds(self) -> float:
        """From one step to the next: loading and reading overlap the computation, so the slowest of the three counts."""
        return max(self.compute + self.exposed, self.loading, self.reading)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def efficiency(self) -> float:
        """Scaling efficiency: rate relative to as many independent GPUs."""
        return self.alone / self.seconds

    @property
    def limit(self) -> Limit:
        """The bottleneck."""
        slowest = self.seconds
        if self.reading == slowest:
            return "file system"
        if self.loading == slowest:
            return "data loading"
        return "averaging" if self.compute < NOTICED * slowest else "compute"


def predict(batch: BatchPlan, compute: Compute, traffic: Traffic, cluster: Cluster, supply: Supply) -> Step:
    """A step of `batch` on `cluster`."""
    passed = compute.seconds(batch.micro_batch_size)
    exchange = traffic.seconds(cluster)
    share = batch.micro_batch_size * batch.accumulation
    computing = passed * batch.accumulation
    return Step(
        compute=computing,
        exchange=exchange,
        exposed=exchange - min(traffic.hidden * exchange, passed * 2 / 3),
        loading=share / supply.loader,
        reading=batch.global_batch_size / supply.file_system,
        images=batch.global_batch_size,
        alone=computing,
    )


def useful_batch(compute: Compute, traffic: Traffic, cluster: Cluster) -> int:
    """The global batch at which waiting for the averaging takes 5% of the step: a larger one gains little.

    At least one measured micro batch a GPU: smaller ones were not measured.
    """
    # A pass of that length hides all that overlaps it.
    wanted = compute.images_for((1 - traffic.hidden) * traffic.seconds(cluster) * GOOD / (1 - GOOD))
    return cluster.gpus * max(compute.measured_images, math.ceil(wanted - 1e-9))
