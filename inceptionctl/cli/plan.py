"""`inceptionctl plan`: how a training scales to more GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, RecipeArgument, Settings, requested, whole_numbers
from inceptionctl.stages.plan import PlanRequest, ScalingPlan, StudyScalingPlan
from inceptionctl.stages.plan import plan as make_plan
from inceptionctl.words import counted, counted_epochs

if TYPE_CHECKING:
    from inceptionctl.scaling.cluster_plan import Point


StepFiles = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Measured step of one GPU, as JSON of `bench step`; one for each micro batch size."),
]
LinkBandwidth = Annotated[
    float | None,
    typer.Option(metavar="GB/S", help="Measured between nodes (busbw of nccl-tests), instead of the nominal bandwidth."),
]
AllreduceFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="All-reduce measured between nodes, one rank on each, as JSON of `bench allreduce`."),
]


def plan(
    recipe: RecipeArgument,
    settings: Settings = None,
    gpus: Annotated[str, typer.Option(metavar="N,N,...", help="GPU counts to compare.")] = "8,20,64,256,1024",
    step: StepFiles = None,
    figure: Annotated[str | None, typer.Option(help="Name of the figure in FILE, if it has several in images/s.")] = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="Measured training throughput of one GPU, instead of a FILE.")
    ] = None,
    step_seconds: Annotated[float | None, typer.Option(help="Measured seconds per step of one GPU, instead of a FILE.")] = None,
    measured_images: Annotated[
        int | None, typer.Option(min=1, help="Images per measured step; train.micro_batch_size by default.")
    ] = None,
    peak_tflops: Annotated[
        float | None, typer.Option(help="For an estimate without a measurement: the peak of the GPU in TFLOP/s.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="For an estimate: the fraction of the peak that a step reaches.")
    ] = None,
    interconnect: Annotated[str, typer.Option(metavar="NAME", help="Network card; an unknown NAME lists them.")] = "ib-ndr",
    cards_per_node: Annotated[int, typer.Option(min=1, help="Network cards per node.")] = 1,
    inside: Annotated[str, typer.Option(metavar="NAME", help="GPU link in a node; an unknown NAME lists them.")] = "nvlink4",
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs per node.")] = 8,
    link_bandwidth: LinkBandwidth = None,
    allreduce: AllreduceFile = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Data loading throughput, as JSON of `bench data`.")] = None,
    cores_per_gpu: Annotated[int, typer.Option(min=1, help="CPU cores per GPU that prepare images.")] = 8,
    file_system_rate: Annotated[
        float | None, typer.Option(metavar="GB/S", help="Read throughput of the file system, all nodes together.")
    ] = None,
    image_bytes: Annotated[int, typer.Option(min=1, help="Mean bytes of an image file; ImageNet's by default.")] = 110_000,
    price: Annotated[float | None, typer.Option(help="Price of a GPU-hour, in any currency.")] = None,
    scale_batch: Annotated[
        bool, typer.Option("--scale-batch", help="Keep train.micro_batch_size images per GPU, so that the global batch grows.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict images/s, efficiency, time and cost of a training, or of all trainings of a study, on several GPU counts, and the bottleneck.

    The prediction combines one GPU's measured step, the size of the gradients and the bandwidth of the links (formulas in docs/scaling.md).
    """
    request = requested(locals(), PlanRequest, gpus=sorted(set(whole_numbers("--gpus", gpus, "8,20,64"))))
    found = make_plan(request)
    if as_json:
        console.print_json(found.to_json())
    elif isinstance(found, StudyScalingPlan):
        _print_study(found)
    else:
        _print(found)


def _print(found: ScalingPlan) -> None:
    about, points, price = found.inputs, found.points, found.price
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
    for text in found.remarks:
        console.out.print(f"- {text}")


def _print_study(found: StudyScalingPlan) -> None:
    price = found.price
    columns = ("GPUs", "arm", "trainings", "images/s", "hours each", "days", "cost" if price else "GPU-h")
    rows = []
    for place, (gpus, seconds) in enumerate(found.seconds.items()):
        for name, (number, one) in found.arms.items():
            point = one.points[place]
            rate = f"{point.step.rate:,.0f}" if point.step else "-"
            each = "-" if point.seconds is None else f"{point.seconds / 3600:.3g}"
            rows.append(
                (f"{gpus:,}", name, f"{number}", rate, each, *_sum(gpus, point.seconds and number * point.seconds, price))
            )
        total = sum(number for number, _ in found.arms.values())
        rows.append((f"{gpus:,}", "all", f"{total}", "", "", *_sum(gpus, seconds, price)))
    right = tuple(one for one in columns if one != "arm")
    console.print_table(f"Plan of {found.recipe}, one training after the other", columns, rows, right=right, whole=("arm",))
    console.out.print()
    pairs = [(name, "; ".join(one.inputs["measured"])) for name, (_, one) in found.arms.items()]
    console.print_pairs("", pairs)
    console.out.print()
    for text in found.remarks:
        console.out.print(f"- {text}")


def _sum(gpus: int, seconds: float | None, price: float | None) -> tuple[str, str]:
    """Days, and GPU-hours or their cost."""
    if seconds is None:
        return "-", "-"
    return f"{seconds / 86400:.3g}", f"{gpus * seconds / 3600 * (price or 1.0):,.0f}"


def _speed(link: console.JsonObject) -> str:
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
