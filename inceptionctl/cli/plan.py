"""`inceptionctl plan`: what more GPUs would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, Settings
from inceptionctl.errors import RecipeError
from inceptionctl.words import counted, counted_epochs

if TYPE_CHECKING:
    from inceptionctl.scaling.collectives import Link
    from inceptionctl.scaling.measured import Rate
    from inceptionctl.scaling.planning import Point


def plan(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")],
    settings: Settings = None,
    gpus: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of GPUs to compare.")] = "8,20,64,256,1024",
    step: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A measured step of one GPU, JSON of `bench step`; several for several micro batches."
        ),
    ] = None,
    figure: Annotated[str | None, typer.Option(help="Name of the figure in FILE, where there are several in images/s.")] = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="Measured training rate of one GPU, instead of a FILE.")
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="Measured seconds of one step of one GPU, instead of a FILE.")
    ] = None,
    measured_images: Annotated[
        int | None, typer.Option(min=1, help="Images of that step; train.micro_batch_size by default.")
    ] = None,
    peak_tflops: Annotated[
        float | None, typer.Option(help="For an estimate without a measurement: the GPU's peak, 10^12 FLOP/s.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="For an estimate: the share of the peak that a step reaches.")
    ] = None,
    interconnect: Annotated[str, typer.Option(metavar="NAME", help="A network card of a node; an unknown NAME lists them.")] = (
        "ib-ndr"
    ),
    cards_per_node: Annotated[int, typer.Option(min=1, help="Network cards of a node.")] = 1,
    inside: Annotated[
        str, typer.Option(metavar="NAME", help="Link of the GPUs in a node; an unknown NAME lists them.")
    ] = "nvlink4",
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 8,
    link_bandwidth: Annotated[
        float | None,
        typer.Option(
            metavar="GB/S", help="Measured between nodes (busbw of nccl-tests), instead of what the cards are known for."
        ),
    ] = None,
    allreduce: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured between nodes, one rank on each: JSON of `bench allreduce`."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="The loader's rate, JSON of `bench data`.")] = None,
    cores_per_gpu: Annotated[int, typer.Option(min=1, help="Processor cores that prepare images for a GPU.")] = 8,
    file_system_rate: Annotated[
        float | None, typer.Option(metavar="GB/S", help="What the file system gives to all nodes together.")
    ] = None,
    image_bytes: Annotated[int, typer.Option(min=1, help="Mean size of an image file; ImageNet's by default.")] = 110_000,
    price: Annotated[float | None, typer.Option(help="Of a GPU-hour, in any currency.")] = None,
    scale_batch: Annotated[
        bool, typer.Option("--scale-batch", help="Keep train.micro_batch_size images a GPU: the global batch grows.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict images/s, efficiency, time and cost of a recipe's training on several numbers of GPUs, and say what limits.

    From one GPU's measured step, the bytes of the gradients, and what is known of the links (docs/scaling.md has the formulas).
    """
    from inceptionctl.recipe import load_recipe
    from inceptionctl.scaling.interconnects import NODES, find_link
    from inceptionctl.scaling.measured import estimated_rate, fit_compute, given_rates, read_loader_rate
    from inceptionctl.scaling.planning import Site

    loaded = load_recipe(recipe, settings or ())
    _refuse_no_number(images_per_second=images_per_second, step_seconds=step_seconds, price=price)
    _refuse_no_number(link_bandwidth=link_bandwidth, file_system_rate=file_system_rate)
    _refuse_no_number(peak_tflops=peak_tflops, utilisation=utilisation)
    counts = _counts(gpus)
    micro = measured_images or loaded.train.micro_batch_size
    rates = given_rates(step or (), figure, images_per_second, step_seconds, micro)
    _refuse_unclear_source(rates, peak_tflops, utilisation)
    between, named = _between(interconnect, cards_per_node, link_bandwidth, allreduce)
    site = Site(
        gpus_per_node,
        find_link(inside, NODES, "--inside").link,
        between,
        cores_per_gpu=cores_per_gpu,
        loader_per_core=read_loader_rate(data) if data else None,
        file_system=file_system_rate and file_system_rate * 1e9,
        image_bytes=image_bytes,
    )

    from inceptionctl.scaling.advice import advise
    from inceptionctl.scaling.network import count_network
    from inceptionctl.scaling.planning import Images, plan_points
    from inceptionctl.train.plan import num_images

    network, images = count_network(loaded), Images(*num_images(loaded))
    if peak_tflops and utilisation:
        rates = [estimated_rate(network.multiply_adds, peak_tflops, utilisation, micro)]
    compute = fit_compute(rates)
    points = plan_points(
        loaded, counts, compute=compute, traffic=network.traffic, site=site, images=images, scale_batch=scale_batch
    )
    about = {
        "recipe": recipe,
        "measured": [rate.source for rate in rates],
        "estimate": peak_tflops is not None,
        "gradient_bytes": network.traffic.gradients,
        "statistics_bytes": network.traffic.statistics,
        "zero_stage": loaded.train.zero_stage,
        "gpus_per_node": gpus_per_node,
        "inside": _link(inside, site.inside),
        "between": _link(named, site.between),
        "loader_images_per_core_second": site.loader_per_core,
        "cores_per_gpu": cores_per_gpu,
        "file_system_bytes_per_second": site.file_system,
        "image_bytes": image_bytes,
        "train_images": images.train,
        "train_images_source": images.source,
        "epochs": loaded.train.epochs,
        "price_per_gpu_hour": price,
    }
    words = advise(points, compute, site, loaded.train.zero_stage)
    if as_json:
        console.print_json({**about, "points": [point.to_json(price) for point in points], "remarks": words})
    else:
        _print(about, points, words, price)


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1_000_000 for part in parts):
        raise RecipeError(f"--gpus '{text}' is no list of numbers of GPUs", "write it as --gpus 8,20,64")
    return sorted({int(part) for part in parts})


def _refuse_no_number(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"--{name.replace('_', '-')} {value:g} is no positive number", "correct it, or leave it out")


def _refuse_unclear_source(rates: list[Rate], peak_tflops: float | None, utilisation: float | None) -> None:
    example = "for example --peak-tflops 989 --utilisation 0.3, an H100 in bf16 and a share that you guess"
    if (peak_tflops is None) != (utilisation is None):
        raise RecipeError("an estimate takes both --peak-tflops and --utilisation", example)
    if utilisation and utilisation > 1:
        raise RecipeError(f"--utilisation {utilisation:g} is more than the whole peak", example)
    if rates and peak_tflops:
        raise RecipeError("one GPU's speed is both measured and estimated", "give one of the two")
    if not rates and not peak_tflops:
        raise RecipeError(
            "nothing tells how fast one GPU is",
            "measure it (inceptionctl bench step RECIPE --output FILE) and give --step FILE or --images-per-second X;"
            f" or estimate it, {example}",
        )


def _between(interconnect: str, cards: int, bandwidth: float | None, allreduce: Path | None) -> tuple[Link, str]:
    """The link between nodes, and what it is called."""
    from inceptionctl.scaling.collectives import Link
    from inceptionctl.scaling.interconnects import NETWORKS, find_link
    from inceptionctl.scaling.measured import read_link

    card = find_link(interconnect, NETWORKS, "--interconnect").link
    if bandwidth and allreduce:
        raise RecipeError("the link between nodes is given twice", "give --link-bandwidth or --allreduce")
    if allreduce:
        return read_link(allreduce), f"measured ({allreduce.name})"
    if bandwidth:
        return Link(bandwidth * 1e9, card.latency), "measured (as given)"
    return Link(card.bandwidth * cards, card.latency), f"{cards} x {interconnect}"


def _link(name: str, link: Link) -> dict[str, str | float]:
    return {"name": name, "bytes_per_second": link.bandwidth, "hop_seconds": link.latency}


def _print(about: dict[str, Any], points: list[Point], words: list[str], price: float | None) -> None:
    columns = ("GPUs", "batch", "images/s", "eff.", "step ms", "avg. ms", "hours", "cost" if price else "GPU-h", "limit")
    rows = [_row(point, price) for point in points]
    console.print_table(f"Plan of {about['recipe']}", columns, rows, right=columns[:-1])
    images = f"{about['train_images']:,}" if about["train_images"] else "unknown"
    pairs = [
        ("one GPU", "; ".join(about["measured"])),
        ("averaging", f"{console.size(about['gradient_bytes'])} of gradients a step, ZeRO stage {about['zero_stage']}"),
        ("in a node", f"{counted(about['gpus_per_node'], 'GPU')}, {_speed(about['inside'])}"),
        ("between nodes", f"{_speed(about['between'])}, all cards of a node"),
        ("images", f"{images}, {counted_epochs(about['epochs'])} ({about['train_images_source']})"),
        (
            "useful batch",
            ", ".join(f"{point.useful_batch:,} on {point.gpus:,}" for point in points if point.step) + " GPUs",
        ),
    ]
    console.out.print()
    console.print_pairs("", pairs)
    console.out.print()
    for text in words:
        console.out.print(f"- {text}")


def _speed(link: dict[str, Any]) -> str:
    return f"{link['name']}: {link['bytes_per_second'] / 1e9:.3g} GB/s, {link['hop_seconds'] * 1e6:.3g} microseconds a hop"


def _row(point: Point, price: float | None) -> list[str]:
    step, batch, hours = point.step, point.batch, point.gpu_hours
    if step is None or batch is None:
        return [f"{point.gpus:,}", *["-"] * 7, "batch not divisible"]
    return [
        f"{point.gpus:,}",
        f"{batch.global_batch_size:,}",
        f"{step.rate:,.0f}",
        f"{step.efficiency:.0%}",
        f"{step.seconds * 1e3:.1f}",
        f"{step.exchange * 1e3:.1f}",
        "-" if point.seconds is None else f"{point.seconds / 3600:.3g}",
        "-" if hours is None else f"{hours * (price or 1.0):,.0f}",
        _SHORT[step.limit],
    ]


_SHORT = {"compute": "compute", "averaging": "averaging", "data loading": "loading", "file system": "files"}
