"""`inceptionctl plan`: how a training scales to more GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.console import JsonObject
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.scaling.cluster_plan import ImageCounts, Point, Site
    from inceptionctl.scaling.collectives import Link
    from inceptionctl.scaling.measured import Rate


@dataclass(frozen=True)
class PlanRequest:
    """The arguments and options of `inceptionctl plan`. One GPU's speed is measured (a file, a rate or seconds) or estimated."""

    recipe: str
    settings: Sequence[str] = ()
    gpus: Sequence[int] = (8, 20, 64, 256, 1024)
    """GPU counts to compare."""
    step: Sequence[Path] = ()
    """JSON of `bench step` on one GPU; several for several micro batches."""
    figure: str | None = None
    """Name of the figure in these files, where there are several in images/s."""
    images_per_second: float | None = None
    step_seconds: float | None = None
    measured_images: int | None = None
    """Images of the measured step; train.micro_batch_size by default."""
    peak_tflops: float | None = None
    utilisation: float | None = None
    """Share of the peak that a step reaches, 0 to 1."""
    interconnect: str = "ib-ndr"
    cards_per_node: int = 1
    inside: str = "nvlink4"
    gpus_per_node: int = 8
    link_bandwidth: float | None = None
    """Measured between nodes, GB/s (busbw of nccl-tests)."""
    allreduce: Path | None = None
    """JSON of `bench allreduce` with one rank on each node."""
    data: Path | None = None
    """JSON of `bench data`."""
    cores_per_gpu: int = 8
    file_system_rate: float | None = None
    """Of all nodes together, GB/s."""
    image_bytes: int = 110_000
    price: float | None = None
    """Of a GPU-hour."""
    scale_batch: bool = False
    """Keep train.micro_batch_size images per GPU, so that the global batch grows."""


@dataclass(frozen=True)
class ScalingPlan:
    """What is predicted."""

    inputs: JsonObject
    """What it rests on, as JSON values."""
    points: Sequence[Point]
    """One for each number of GPUs, ascending."""
    remarks: Sequence[str]
    price: float | None

    def to_json(self) -> JsonObject:
        """What `--json` prints."""
        points = [point.to_json(self.price) for point in self.points]
        return {**self.inputs, "points": points, "remarks": list(self.remarks)}


@dataclass(frozen=True)
class StudyScalingPlan:
    """What is predicted of a study: its trainings one after the other, each on all GPUs."""

    recipe: str
    arms: Mapping[str, tuple[int, ScalingPlan]]
    """By condition, or by several of equal cost: number of trainings, those of the tuning too, and the plan of one."""
    price: float | None

    @property
    def seconds(self) -> dict[int, float | None]:
        """Of all trainings, by the number of GPUs; None where one of them cannot be told."""
        found: dict[int, float | None] = {}
        for number, one in self.arms.values():
            for point in one.points:
                so_far = found.get(point.gpus, 0.0)
                found[point.gpus] = None if so_far is None or point.seconds is None else so_far + number * point.seconds
        return found

    @property
    def remarks(self) -> list[str]:
        """Those of all arms once, others with the arms in front."""
        said: dict[str, list[str]] = {}
        for name, (_, one) in self.arms.items():
            for words in one.remarks:
                said.setdefault(words, []).append(name)
        return [words if len(names) == len(self.arms) else f"{', '.join(names)}: {words}" for words, names in said.items()]

    def to_json(self) -> JsonObject:
        """What `--json` prints."""
        sums = [
            {"gpus": gpus, "seconds": seconds, "gpu_hours": hours, "cost": hours and self.price and hours * self.price}
            for gpus, seconds in self.seconds.items()
            for hours in [seconds and gpus * seconds / 3600]
        ]
        arms = {name: {"trainings": number, **one.to_json()} for name, (number, one) in self.arms.items()}
        return {"recipe": self.recipe, "arms": arms, "sums": sums, "remarks": self.remarks}


def plan(request: PlanRequest) -> ScalingPlan | StudyScalingPlan:
    """Predict images/s, efficiency, time and cost on several numbers of GPUs, and what limits, by the formulas of docs/scaling.md.

    Of a study, for all its trainings. Raises RecipeError for inputs that do not fit together, DataError for a file that holds no such
    measurement.
    """
    from inceptionctl.recipe import is_study, load_recipe

    _refuse_no_numbers(request)
    if is_study(request.recipe):
        return _plan_study(request)
    return _plan_recipe(load_recipe(request.recipe, request.settings), request)


def _plan_study(request: PlanRequest) -> StudyScalingPlan:
    from inceptionctl.recipe import load_study

    study = load_study(request.recipe, request.settings)
    recipes, tune = study.first_recipes(), study.section.tune
    networks = {(one.model.name, one.model.width, one.model.input_px) for one in recipes.values()}
    if len(networks) > 1 and request.peak_tflops is None:
        raise RecipeError(
            f"the arms of {request.recipe} are {len(networks)} networks, and a measured speed is that of one",
            "give --peak-tflops and --utilisation; a measured network has reached 6 x multiply-adds x images/s / peak",
        )
    tuning = len(tune.values) * len(tune.seeds) if tune else 0
    plans: dict[str, ScalingPlan] = {}
    alike: dict[str, dict[str, int]] = {}
    for condition in study.conditions:
        recipe = recipes[condition.name]
        key = recipe.model_dump_json(exclude={"optim": True, "schedule": True, "model": {"residual_scale", "shortcut"}})  # free
        plans[key] = plans.get(key) or _plan_recipe(recipe, request)
        alike.setdefault(key, {})[condition.name] = len(study.section.seeds_of(condition.arm)) + tuning
    arms = {_in_short(list(of)): (sum(of.values()), plans[key]) for key, of in alike.items()}
    return StudyScalingPlan(request.recipe, arms, request.price)


def _in_short(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _plan_recipe(recipe: Recipe, request: PlanRequest) -> ScalingPlan:
    from inceptionctl.scaling.measured import estimated_rate, fit_compute, given_rates

    micro = request.measured_images or recipe.train.micro_batch_size
    rates = given_rates(request.step, request.figure, request.images_per_second, request.step_seconds, micro)
    _refuse_unclear_source(rates, request.peak_tflops, request.utilisation)
    site, network_name = _site(request)

    from inceptionctl.scaling.cluster_plan import ImageCounts, advise, plan_points
    from inceptionctl.scaling.network import count_network
    from inceptionctl.stages.checks import assume_classes
    from inceptionctl.train.dry_run import num_images
    from inceptionctl.train.preflight import with_counted_classes

    is_here = recipe.data.root_path.exists() or recipe.data.train_csv
    recipe = with_counted_classes(recipe) if is_here else assume_classes(recipe)
    network, images = count_network(recipe), ImageCounts(*num_images(recipe))
    if request.peak_tflops and request.utilisation:
        rates = [estimated_rate(network.multiply_adds, request.peak_tflops, request.utilisation, micro)]
    compute, gpus = fit_compute(rates), sorted(set(request.gpus))
    points = plan_points(
        recipe, gpus, compute=compute, traffic=network.traffic, site=site, images=images, scale_batch=request.scale_batch
    )
    traffic = {"gradient_bytes": network.traffic.gradients, "statistics_bytes": network.traffic.statistics}
    inputs = {
        "recipe": request.recipe,
        "measured": [rate.source for rate in rates],
        "estimate": request.peak_tflops is not None,
        **traffic,
        **_inputs(request, recipe, site, network_name, images),
    }
    return ScalingPlan(inputs, points, advise(points, compute, site, recipe.train.zero_stage), request.price)


def _inputs(request: PlanRequest, recipe: Recipe, site: Site, network_name: str, images: ImageCounts) -> JsonObject:
    return {
        "zero_stage": recipe.train.zero_stage,
        "gpus_per_node": site.gpus_per_node,
        "inside": _link(request.inside, site.inside),
        "between": _link(network_name, site.between),
        "loader_images_per_core_second": site.loader_per_core,
        "cores_per_gpu": site.cores_per_gpu,
        "file_system_bytes_per_second": site.file_system,
        "image_bytes": site.image_bytes,
        "train_images": images.train,
        "train_images_source": images.source,
        "epochs": recipe.train.epochs,
        "price_per_gpu_hour": request.price,
    }


def _link(name: str, link: Link) -> JsonObject:
    return {"name": name, "bytes_per_second": link.bandwidth, "hop_seconds": link.latency}


def _refuse_no_numbers(request: PlanRequest) -> None:
    names = ("images_per_second", "step_seconds", "price", "link_bandwidth", "file_system_rate", "peak_tflops", "utilisation")
    for name in names:
        value = getattr(request, name)
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"--{name.replace('_', '-')} {value:g} is not a positive number", "correct it, or leave it out")


def _refuse_unclear_source(rates: Sequence[Rate], peak_tflops: float | None, utilisation: float | None) -> None:
    example = "for example --peak-tflops 989 --utilisation 0.3, an H100 in bf16 and a guessed utilisation"
    if (peak_tflops is None) != (utilisation is None):
        raise RecipeError("an estimate takes both --peak-tflops and --utilisation", example)
    if utilisation and utilisation > 1:
        raise RecipeError(f"--utilisation {utilisation:g} is more than 1", example)
    if rates and peak_tflops:
        raise RecipeError("one GPU's speed is both measured and estimated", "give one of the two")
    if not rates and not peak_tflops:
        raise RecipeError(
            "the speed of one GPU is not known",
            "measure it (inceptionctl bench step RECIPE --output FILE) and give --step FILE or --images-per-second X;"
            f" or estimate it, {example}",
        )


def _site(request: PlanRequest) -> tuple[Site, str]:
    """The cluster, and the name of the network between its nodes."""
    from inceptionctl.scaling.cluster_plan import Site
    from inceptionctl.scaling.interconnects import NODES, find_link
    from inceptionctl.scaling.measured import read_loader_rate

    between, name = _between(request)
    site = Site(
        request.gpus_per_node,
        find_link(request.inside, NODES, "--inside").link,
        between,
        cores_per_gpu=request.cores_per_gpu,
        loader_per_core=read_loader_rate(request.data) if request.data else None,
        file_system=request.file_system_rate and request.file_system_rate * 1e9,
        image_bytes=request.image_bytes,
    )
    return site, name


def _between(request: PlanRequest) -> tuple[Link, str]:
    from inceptionctl.scaling.collectives import Link
    from inceptionctl.scaling.interconnects import NETWORKS, find_link
    from inceptionctl.scaling.measured import read_link

    card, cards = find_link(request.interconnect, NETWORKS, "--interconnect").link, request.cards_per_node
    if request.link_bandwidth and request.allreduce:
        raise RecipeError("the link between nodes is given twice", "give --link-bandwidth or --allreduce")
    if request.allreduce:
        return read_link(request.allreduce), f"measured ({request.allreduce.name})"
    if request.link_bandwidth:
        return Link(request.link_bandwidth * 1e9, card.latency), "measured (as given)"
    return Link(card.bandwidth * cards, card.latency), f"{cards} x {request.interconnect}"
