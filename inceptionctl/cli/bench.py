"""`inceptionctl bench`: measure this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from inceptionctl import console
from inceptionctl.cli.bench_tables import print_lr, print_profile, print_result, print_sum_model, say_timm, say_waits
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import (
    ImagesAsMicroBatch,
    Json,
    MicroBatchOption,
    Precision,
    RecipeArgument,
    Settings,
    renamed,
    whole_numbers,
)
from inceptionctl.errors import RecipeError
from inceptionctl.protocols import ProtocolName
from inceptionctl.stages import bench_data, bench_lr, bench_network, bench_ranks, bench_steps
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.bench.compare import Pair

app = typer.Typer(
    help="Measure this machine: the data path, training steps, evaluation, ranks, lists of images, checkpoints.",
    no_args_is_help=True,
    cls=Group,
)

Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON into this file.")]
Gpus = Annotated[
    int | None, typer.Option(min=1, help="Ranks on so many GPUs of this machine; 1 by default where there are any.")
]
CpuRanks = Annotated[int | None, typer.Option(min=1, help="So many ranks on the CPU.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds.")]


@app.command()
def data(
    recipe: RecipeArgument = "inception_v4",
    settings: Settings = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Photographs to take, from anywhere below; else the recipe's.")
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images that one round reads, in the recipe's micro batches; about as many as are measured a second, or more.",
        ),
    ] = 960,
    repeats: Repeats = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads and worker processes; as many as cores by default.")
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Images a second of a recipe's data path without a network, stage by stage, beside a Pillow loader and libjpeg-turbo alone.

    Each stage with all before it, in turn, round by round. The files are read once before, so they come out of memory.
    """
    request = bench_data.BenchDataRequest(recipe, settings or (), data, images, repeats, threads, output)
    print_result(bench_data.data(request), as_json)


@app.command()
def photographs(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder with photographs of at least --size, at any depth.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to make.")],
    images: Annotated[int, typer.Option(min=1, help="Photographs to make.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the random crops.")] = 0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels of each; 375x375 are squares.")] = "500x375",
    as_json: Json = False,
) -> None:
    """Make JPEGs like ImageNet's (500 x 375, about 110 kB) out of other photographs, to measure with where there is no ImageNet."""
    words = size.split("x")
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise RecipeError(f"--size {size}: not a width and a height in px", "for example --size 375x375")
    wanted = int(words[0]), int(words[1])
    made = bench_data.photographs(bench_data.BenchPhotographsRequest(source, destination, images, seed, wanted))
    if as_json:
        console.print_json(made)
    console.say(f"{counted(images, 'photograph')}, {console.size(made['bytes'] / images)} each, in {destination}")
    console.say(f"next: inceptionctl bench data --data {destination} --images {images}")


@app.command()
def lists(
    images: Annotated[int, typer.Option(min=10_000, help="Images of the synthetic list; ImageNet has 1281167.")] = 1_281_167,
    classes: Annotated[int, typer.Option(min=1, help="Class folders.")] = 1000,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that open it at once, as the ranks of a machine do.")] = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds and memory of opening a synthetic list of images in several processes at once, and of computing the first order."""
    print_result(bench_data.lists(bench_data.BenchListsRequest(images, classes, ranks, output)), as_json)


@app.command()
def checkpoint(
    recipe: RecipeArgument = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    repeats: Repeats = 5,
    folder: Annotated[Path, typer.Option("--on", metavar="FOLDER", help="Folder on the disk to be measured.")] = Path(),
    output: Output = None,
    as_json: Json = False,
) -> None:
    """How long saving a checkpoint blocks training, in the background and in the foreground, beside a step on noise."""
    request = bench_network.BenchCheckpointRequest(recipe, settings or (), micro_batch_size or images, repeats, folder, output)
    print_result(bench_network.checkpoint(request), as_json)


@app.command()
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN", help="A recipe (its network with random weights), or a run directory or its name under runs/."
        ),
    ] = "inception_v4",
    settings: Settings = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Photographs to take, from anywhere below; else the validation images."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As of `evaluate`; may be repeated; 144crop by default.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Pictures to evaluate of each kind, square and other; --batch-sizes are crops.")
    ] = 16,
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,...", help="Crops at once; each way of evaluating takes the best of these for itself.")
    ] = "4,8,16",
    precision: Precision = "auto",
    repeats: Repeats = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds an image of a protocol, beside as many independent single-crop passes as it has crops.

    Each of these passes reads, decodes, resizes, cuts and asks for one crop of all pictures. Square pictures and others are listed apart:
    of a square one more crops are equal, and those are computed once.
    """
    sizes, protocols = whole_numbers("--batch-sizes", batch_sizes, "4,8,16"), _protocols(protocol or ["144crop"])
    request = bench_network.BenchEvaluateRequest(
        source, settings or (), data, protocols, images, sizes, precision, repeats, output
    )
    found = bench_network.evaluate(request)
    print_result(found, as_json)
    if not as_json:
        best = ", ".join(f"{way}: {size}" for way, size in found["batch_sizes"].items())
        difference = found["largest_difference"]
        console.say(f"best batch sizes: {best}; the two ways' probabilities differ by at most {difference:.1e}")


@app.command()
def step(
    recipe: RecipeArgument = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Photographs for turns with live data besides.")] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a turn: 1 on a CPU and 10 on GPUs by default.")] = None,
    repeats: Repeats = 5,
    output: Output = None,
    ways: Annotated[
        str | None,
        typer.Option(
            metavar="WAY,...",
            help="What takes turns with the loop and the bare loop: none, blocks, network, blocks/max-autotune, network/max-autotune,"
            " network/cuda-graphs (the bare loop compiled so), timm, timm-compiled, and on one rank parts, formats, products;"
            " bare for nothing else. By default parts,formats,products on one rank.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run some steps under torch.profiler: a table of costs, and a Chrome trace in FILE (.json, .json.gz).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """A step of the real training loop on random images beside a bare torch loop of the same network, torch DDP on several ranks.

    Ranks are started as `train` starts them. No validation and no saves; a row of metrics after every train.log_every_steps.
    """
    named = None if ways is None else ways.split(",")
    micro_batch_size = micro_batch_size or images
    request = bench_steps.BenchStepRequest(
        recipe, settings or (), micro_batch_size, data, gpus, cpu_ranks, steps, repeats, output, named, profile
    )
    found = bench_steps.step(request)
    if found is None:
        return
    print_result(found, as_json)
    if not as_json:
        say_timm(found)
        say_waits(found)
        print_profile(found)
    if profile:
        console.say(f"{profile}: open it in https://ui.perfetto.dev or chrome://tracing")


@app.command()
def train(
    recipe: RecipeArgument = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Photographs to take, from anywhere below; else the recipe's.")
    ] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of a turn; several, since some batches are ready when it begins.")
    ] = 8,
    repeats: Repeats = 5,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """The real training loop with live data beside itself on random images, and beside a bare torch loop: what data costs it."""
    micro_batch_size = micro_batch_size or images
    request = bench_steps.BenchTrainRequest(
        recipe, settings or (), micro_batch_size, data, gpus, cpu_ranks, steps, repeats, output
    )
    found = bench_steps.train(request)
    if found is not None:
        print_result(found, as_json)
        if not as_json:
            say_waits(found)


@app.command()
def lr(
    recipe: RecipeArgument,
    settings: Settings = None,
    first: Annotated[float, typer.Option("--from", help="Learning rate of the first step.")] = 1e-6,
    last: Annotated[
        float, typer.Option("--to", help="Learning rate of the last step, unless the loss diverges before.")
    ] = 10.0,
    steps: Annotated[
        int, typer.Option(min=bench_lr.LEAST_STEPS, help="Optimizer steps, each of the recipe's global batch.")
    ] = 100,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw loss against learning rate: .png, .svg or .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learning rate range test: train at a rising rate until the loss diverges, and suggest a rate.

    It begins as a training of the recipe would, and leaves no run behind. It stops at 4 times the best smoothed loss.
    """
    request = bench_lr.BenchLrRequest(recipe, settings or (), first, last, steps, gpus, cpu_ranks, output)
    found = bench_lr.lr(request)
    if found is not None:
        print_lr(found, as_json)
        if output:
            console.say(f"wrote {output}")


@app.command()
def start(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe whose data are here.")] = "quickstart",
    settings: Settings = None,
    ranks: Annotated[str, typer.Option(metavar="N,...", help="Numbers of ranks, in turn.")] = "1,2",
    on_gpus: Annotated[bool, typer.Option("--on-gpus", help="Ranks on GPUs instead of the CPU.")] = False,
    gpus: Annotated[bool | None, typer.Option("--gpus", hidden=True)] = None,
    repeats: Repeats = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds from the start of `inceptionctl train` to the first row of metrics, phase by phase, and of `inceptionctl --help`.

    The training is killed when the row is there; what it wrote lies in a temporary folder and goes too.
    """
    numbers = whole_numbers("--ranks", ranks, "1,2")
    on_gpus = renamed("--gpus", "--on-gpus", gpus, on_gpus)
    request = bench_ranks.BenchStartRequest(recipe, settings or (), numbers, on_gpus, repeats, output)
    print_result(bench_ranks.start(request), as_json)


@app.command()
def allreduce(
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    largest: Annotated[int, typer.Option("--largest", metavar="MiB", min=1, help="Size of the largest sum.")] = 256,
    repeats: Repeats = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds and bandwidth of sums over ranks (gloo between CPU ranks, NCCL between GPUs) of 4 KiB to 256 MiB.

    `alpha_s` and `bytes_per_s` in the JSON are the model seconds = alpha + bytes / rate. Under srun or torchrun it is one rank of the job.
    """
    found = bench_ranks.allreduce(bench_ranks.BenchAllreduceRequest(gpus, cpu_ranks, largest, repeats, output))
    if found is not None:
        print_result(found, as_json)
        if not as_json:
            print_sum_model(found["alpha_s"], found["bytes_per_s"])


@app.command()
def compare(
    one: Annotated[Path, typer.Argument(metavar="A.json", help="What a bench command wrote.")],
    other: Annotated[Path, typer.Argument(metavar="B.json", help="The same command's result of another time or machine.")],
    as_json: Json = False,
) -> None:
    """Two results of one bench side by side: medians, their ratio, and whether the ranges overlap."""
    from inceptionctl.bench.compare import compare, read_result

    first, second = read_result(one), read_result(other)
    pairs, differ, alone = compare(first, second)
    if as_json:
        found = {"a": str(one), "b": str(other), "differ": differ, "alone": alone}
        console.print_json({"bench": first["bench"], **found, "figures": [pair.to_json() for pair in pairs]})
        return
    columns = ("what", "unit", "A", "B", "B / A", "ranges")
    console.print_table(f"bench {first['bench']}", columns, map(_row, pairs), right=("A", "B", "B / A"))
    for line in differ:
        console.say(f"differs: {line}")
    for name in alone:
        console.say(f"in one alone: {name}")


def _row(pair: Pair) -> tuple[str, ...]:
    from inceptionctl.bench.figures import shown

    ratio = "" if pair.ratio is None else f"{pair.ratio:.3f}"
    apart = "overlap" if pair.overlaps else "apart"
    return pair.name, pair.unit, shown(pair.one["median"]), shown(pair.other["median"]), ratio, apart


def _protocols(names: list[str]) -> list[ProtocolName]:
    known: tuple[ProtocolName, ...] = get_args(ProtocolName)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"no protocol {unknown[0]}", f"one of {', '.join(known)}")
    return [name for name in known if name in names]
