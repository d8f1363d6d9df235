"""`inceptionctl plan`: a recipe's training on several numbers of GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.recipe.schema import Recipe
from inceptionctl.scaling.collectives import Cluster, Link
from inceptionctl.scaling.interconnects import LAUNCH
from inceptionctl.scaling.prediction import Compute, Step, Supply, Traffic, predict, useful_batch
from inceptionctl.train.batch import BatchPlan, plan_batch, total_steps


@dataclass(frozen=True)
class Site:
    """Where it is to be trained; rates in bytes or images a second."""

    gpus_per_node: int
    inside: Link
    between: Link
    """All cards of a node together."""
    cores_per_gpu: int = 8
    loader_per_core: float | None = None
    file_system: float | None = None
    image_bytes: int = 110_000

    def cluster(self, gpus: int) -> Cluster:
        """The first `gpus` of it."""
        return Cluster(gpus, self.gpus_per_node, self.inside, self.between, LAUNCH)

    @property
    def supply(self) -> Supply:
        """What brings the images; what is not known is taken as no limit."""
        loader = math.inf if self.loader_per_core is None else self.loader_per_core * self.cores_per_gpu
        return Supply(loader, math.inf if self.file_system is None else self.file_system / self.image_bytes)


@dataclass(frozen=True)
class Images:
    """How many are trained on and validated with; None where nobody knows."""

    train: int | None
    val: int | None
    source: str


@dataclass(frozen=True)
class Point:
    """A number of GPUs: what was predicted for it, or why nothing was."""

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
        """Everything about it, seconds and images; null where nothing can be said."""
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
    images: Images,
    scale_batch: bool = False,
) -> list[Point]:
    """A point for each number of GPUs. With `scale_batch` each GPU keeps train.micro_batch_size images, and the global batch grows.

    Raises RecipeError when not one of the numbers can share the batch.
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
        raise RecipeError("the batch fits none of these numbers of GPUs", problems=refusals)
    return points


def _training(
    recipe: Recipe, batch: BatchPlan, step: Step, compute: Compute, images: Images
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
