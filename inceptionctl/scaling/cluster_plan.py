"""`inceptionctl plan`: a recipe's training on several numbers of GPUs, and in words what it means and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.recipe.schema import Recipe
from inceptionctl.scaling.collectives import Cluster, Link
from inceptionctl.scaling.interconnects import LAUNCH
from inceptionctl.scaling.prediction import GOOD, Compute, Limit, Step, Supply, Traffic, predict, useful_batch
from inceptionctl.train.batch import BatchPlan, plan_batch, total_steps
from inceptionctl.words import counted


@dataclass(frozen=True)
class Site:
    """The cluster; rates in bytes or images a second."""

    gpus_per_node: int
    inside: Link
    between: Link
    """All cards of a node together."""
    cores_per_gpu: int = 8
    loader_per_core: float | None = None
    file_system: float | None = None
    image_bytes: int = 110_000

    def cluster(self, gpus: int) -> Cluster:
        """Its first `gpus` GPUs."""
        return Cluster(gpus, self.gpus_per_node, self.inside, self.between, LAUNCH)

    @property
    def supply(self) -> Supply:
        """Data supply; an unknown rate counts as unlimited."""
        loader = math.inf if self.loader_per_core is None else self.loader_per_core * self.cores_per_gpu
        return Supply(loader, math.inf if self.file_system is None else self.file_system / self.image_bytes)


@dataclass(frozen=True)
class ImageCounts:
    """Number of training and validation images; None if unknown."""

    train: int | None
    val: int | None
    source: str


@dataclass(frozen=True)
class Point:
    """The prediction for a number of GPUs, or why there is none."""

    gpus: int
    nodes: int
    batch: BatchPlan | None = None
    step: Step | None = None
    problem: str | None = None
    steps: int | None = None
    seconds: float | None = None
    useful_batch: int | None = None

    @property
    def gpu_hours(self) -> float | None:
        """Of the whole training."""
        return None if self.seconds is None else self.gpus * self.seconds / 3600

    def to_json(self, price: float | None) -> dict[str, object]:
        """As JSON values in seconds and images; null if unknown."""
        found: dict[str, Any] = {"gpus": self.gpus, "nodes": self.nodes, "problem": self.problem}
        if self.batch and self.step:
            found |= {
                "global_batch_size": self.batch.global_batch_size,
                "micro_batch_size": self.batch.micro_batch_size,
                "accumulation": self.batch.accumulation,
                "images_per_second": self.step.rate,
                "efficiency": self.step.efficiency,
                "limit": self.step.limit,
                "step_seconds": self.step.seconds,
                "compute_seconds": self.step.compute,
                "averaging_seconds": self.step.exchange,
                "waiting_seconds": self.step.exposed,
                "data_loading_seconds": self.step.loading,
                "file_system_seconds": self.step.reading,
                "useful_batch": self.useful_batch,
                "steps": self.steps,
                "training_seconds": self.seconds,
                "gpu_hours": self.gpu_hours,
                "cost": None if self.gpu_hours is None or price is None else self.gpu_hours * price,
            }
        return found


def plan_points(
    recipe: Recipe,
    counts: Sequence[int],
    *,
    compute: Compute,
    traffic: Traffic,
    site: Site,
    images: ImageCounts,
    scale_batch: bool = False,
) -> list[Point]:
    """A point for each number of GPUs. With `scale_batch` each GPU keeps train.micro_batch_size images, and the global batch grows.

    Raises RecipeError when the batch is divisible by none of the numbers.
    """
    points: list[Point] = []
    refusals: list[Problem] = []
    for gpus in counts:
        cluster = site.cluster(gpus)
        whole = gpus * recipe.train.micro_batch_size if scale_batch else recipe.train.global_batch_size
        try:
            batch = plan_batch(whole, gpus, recipe.train.micro_batch_size)
        except RecipeError as error:
            refusals += error.problems
            words = "; ".join(f"{problem.message}: {problem.hint}" for problem in error.problems)
            points.append(Point(gpus, cluster.nodes, problem=words))
            continue
        step = predict(batch, compute, traffic, cluster, site.supply)
        steps, seconds = _training(recipe, batch, step, compute, images)
        useful = useful_batch(compute, traffic, cluster)
        points.append(Point(gpus, cluster.nodes, batch, step, steps=steps, seconds=seconds, useful_batch=useful))
    if len(refusals) == len(counts):
        raise RecipeError("the batch is not divisible by any of these numbers of GPUs", problems=refusals)
    return points


def _training(
    recipe: Recipe, batch: BatchPlan, step: Step, compute: Compute, images: ImageCounts
) -> tuple[int | None, float | None]:
    """Optimizer steps, and seconds with the validations: a forward pass is a third of the computation."""
    if images.train is None:
        return None, None
    train = recipe.train
    steps = total_steps(train.epochs, images.train, batch.global_batch_size, train.max_steps)
    every = recipe.evaluate.every_epochs
    validations = max(1, int(steps * batch.global_batch_size / images.train / every)) if every else 1
    validating = validations * (images.val or 0) * compute.per_image / 3 / batch.ranks
    return steps, steps * step.seconds + validating


# Goyal et al. 2017, arXiv 1706.02677: no loss of accuracy up to here for ResNet-50, with warm-up and the rate scaled with the batch.
TRIED_BATCH = 8192


def advise(points: Sequence[Point], compute: Compute, site: Site, zero_stage: int) -> list[str]:
    """Sentences, the most important first."""
    told = [point for point in points if point.step]
    words = [_first_limit(told, site, zero_stage)]
    words += [f"{counted(point.gpus, 'GPU')}: {point.problem}" for point in points if point.problem]
    if any(point.problem for point in points):
        words.append("--scale-batch plans each number of GPUs with train.micro_batch_size images a GPU instead")
    words += _small_batches(told, compute) + _large_batches(told)
    if site.loader_per_core is None:
        words.append(
            "the loader is assumed to be fast enough: --data FILE (of `inceptionctl bench data --output FILE`) takes it into account"
        )
    if site.file_system is None:
        words.append("the file system is assumed to be fast enough: --file-system-rate GB/S takes it into account")
    return words


def _first_limit(points: Sequence[Point], site: Site, zero_stage: int) -> str:
    for point in points:
        if point.step and point.step.limit != "compute":
            return f"from {counted(point.gpus, 'GPU')} on, {_WHAT[point.step.limit]}. {_remedy(point, points[-1], site, zero_stage)}"
    last = points[-1]
    reached = last.step.efficiency if last.step else 0.0
    return f"the GPUs themselves are the bottleneck, up to {last.gpus} of them ({reached:.0%} scaling efficiency): only a faster step helps"


_WHAT: dict[Limit, str] = {
    "averaging": "averaging gradients is the bottleneck",
    "data loading": "data loading on the CPU cores is the bottleneck",
    "file system": "the file system is the bottleneck",
}


def _remedy(point: Point, last: Point, site: Site, zero_stage: int) -> str:
    step, batch = point.step, point.batch
    assert step and batch
    if step.limit == "data loading":
        needed = math.ceil(batch.global_batch_size / point.gpus / (step.compute + step.exposed) / (site.loader_per_core or 1.0))
        return f"A GPU needs {counted(needed, 'core')}, not {site.cores_per_gpu}; or let the GPUs decode (data.decode: mixed)"
    if step.limit == "file system":
        rates = [
            f"{_file_rate(one, site) / 1e9:.1f} GB/s for {counted(one.gpus, 'GPU')}" for one in dict.fromkeys((point, last))
        ]
        return f"It would have to give {', '.join(rates)}; or copy the images, packed (inceptionctl data pack), to the nodes' own disks"
    where = "after the backward pass, as DeepSpeed does it under ZeRO" if zero_stage else "the rest beside the backward pass"
    text = (
        f"A step of {step.seconds * 1e3:.1f} ms waits {step.exposed * 1e3:.1f} ms for it ({step.exchange * 1e3:.1f} ms in all, {where}),"
        f" so {step.efficiency:.0%} of the GPUs' speed is reached."
        f" More images a GPU ({point.useful_batch:,} over all GPUs for {GOOD:.0%}), more or faster network cards, or fewer GPUs"
    )
    return text + ("; train.zero_stage: 0 averages beside the pass and collects no weights" if zero_stage else "")


def _file_rate(point: Point, site: Site) -> float:
    """Bytes a second that reading must reach to keep up with the GPUs."""
    assert point.step and point.batch
    return point.batch.global_batch_size * site.image_bytes / (point.step.compute + point.step.exposed)


def _small_batches(points: Sequence[Point], compute: Compute) -> list[str]:
    small = [point for point in points if point.batch and point.batch.micro_batch_size < compute.measured_images]
    if not small:
        return []
    sizes = ", ".join(
        f"{counted(point.gpus, 'GPU')} take{'s' if point.gpus == 1 else ''} {point.batch.micro_batch_size}"
        for point in small
        if point.batch
    )
    return [
        f"one GPU was measured at a micro batch of {counted(compute.measured_images, 'image')}, but {sizes}:"
        f" small passes are slower than predicted; measure one more and give --step twice"
    ]


def _large_batches(points: Sequence[Point]) -> list[str]:
    if not any(max(point.batch.global_batch_size, point.useful_batch or 0) > TRIED_BATCH for point in points if point.batch):
        return []
    return [
        f"a global batch above {TRIED_BATCH:,} may cost accuracy: up to there ResNet-50 lost none (Goyal et al. 2017), with warm-up and the"
        " learning rate scaled with the batch"
    ]
