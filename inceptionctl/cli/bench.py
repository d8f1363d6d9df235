"""`inceptionctl bench`: measure this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli import bench_network, bench_ranks
from inceptionctl.cli.help import Group
from inceptionctl.cli.measured import Output, progress_of, refuse_unwritable, tell
from inceptionctl.cli.options import ImagesAsMicroBatch, Json, MicroBatchOption, Settings
from inceptionctl.errors import DataError, EnvironmentFault, RecipeError
from inceptionctl.stages.checks import check_steps
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.recipe.schema import Recipe

app = typer.Typer(
    help="Measure this machine: the data path, training steps, evaluation, ranks, lists of images, checkpoints.",
    no_args_is_help=True,
    cls=Group,
)
app.command()(bench_network.evaluate)
app.command()(bench_network.step)
app.command()(bench_network.train)
app.command()(bench_ranks.start)
app.command()(bench_ranks.allreduce)
app.command()(bench_ranks.compare)

_PACKAGES = ("inceptionctl", "torch", "nvidia-dali-cuda130", "numpy", "pillow", "simplejpeg")


@app.command()
def data(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")] = "inception_v4",
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Photographs to take, from anywhere below; else the recipe's."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images that one round reads, in the recipe's micro batches; about as many as are measured a second, or more.",
        ),
    ] = 960,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads and worker processes; as many as cores by default.")
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Images a second of a recipe's data path without a network, stage by stage, beside a Pillow loader and libjpeg-turbo alone.

    Each stage with all before it, in turn, round by round. The files are read once before, so they come out of memory.
    """
    from inceptionctl.recipe import load_recipe

    # What is wrong is told before torch and DALI are loaded.
    loaded = load_recipe(recipe, settings or ())
    refuse_unwritable(output)
    found = _photographs(folder) if folder else _training_images(loaded)

    from inceptionctl.bench.data import bench_data
    from inceptionctl.bench.machine import facts
    from inceptionctl.train.loading import loader_settings, train_transforms

    machine = _machine(threads)
    loading = loader_settings(loaded, machine.device, machine.num_threads)
    about = facts(_PACKAGES)
    with progress_of("measuring") as progress:
        figures, left_out = bench_data(
            found,
            train_transforms(loaded),
            loading,
            seed=loaded.train.seed,
            batch_size=min(loaded.train.micro_batch_size, loaded.train.global_batch_size),
            num_images=images,
            repeats=repeats,
            progress=progress,
        )
    measured = {"recipe": recipe, "settings": settings or [], "images": images, "threads": loading.num_threads}
    kinds = {
        "decode": loading.decode,
        "decode_roi": loading.decode_roi,
        "values": str(loading.dtype).removeprefix("torch."),
    }
    result = {"bench": "data", **about, **measured, **kinds, "left_out": left_out}
    tell(result, figures, output, as_json)


def _training_images(recipe: Recipe) -> ImageSet:
    from inceptionctl.data.dataset import open_split

    root = recipe.data.root_path
    return open_split(root, "train", **recipe.data.sources(root))


def _photographs(folder: Path) -> ImageSet:
    from inceptionctl.bench.photographs import images_below

    found = images_below(folder)
    from inceptionctl.evaluate.images import folder_of

    return folder_of(found)


def _machine(threads: int | None) -> Any:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.machine import claim_machine

    claimed = claim_machine()
    return Machine(claimed.device, threads or claimed.num_threads)


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
    from inceptionctl.bench.photographs import images_below, make_photographs

    words = size.split("x")
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise RecipeError(f"--size {size}: not a width and a height in px", "for example --size 375x375")
    sources = images_below(source)
    if destination.exists():
        raise DataError(f"{destination} exists already", "name a folder that is to be made")
    with console.progress_bar() as bar:
        task = bar.add_task("making", total=images)
        num_bytes = make_photographs(
            sources, destination, images, seed, lambda done, _: bar.update(task, completed=done), (int(words[0]), int(words[1]))
        )
    if as_json:
        console.print_json({"folder": str(destination), "images": images, "bytes": num_bytes})
    console.say(f"{counted(images, 'photograph')}, {console.size(num_bytes / images)} each, in {destination}")
    console.say(f"next: inceptionctl bench data --data {destination} --images {images}")


@app.command()
def lists(
    images: Annotated[int, typer.Option(min=10_000, help="Images of the made-up list; ImageNet has 1281167.")] = 1_281_167,
    classes: Annotated[int, typer.Option(min=1, help="Class folders.")] = 1000,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that open it at once, as the ranks of a machine do.")] = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds and memory of opening a made-up list of images in several processes at once, and of working out the first order."""
    from inceptionctl.bench.lists import bench_lists
    from inceptionctl.bench.machine import facts

    refuse_unwritable(output)
    about = facts(("inceptionctl", "numpy"))
    with console.working(f"opening a list of {counted(images, 'image')} in {counted(ranks, 'process', 'processes')}"):
        figures = bench_lists(images, classes, ranks)
    tell({"bench": "lists", **about, "images": images, "classes": classes, "ranks": ranks}, figures, output, as_json)


@app.command()
def checkpoint(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")] = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    folder: Annotated[Path, typer.Option("--on", metavar="FOLDER", help="Folder on the disk to be measured.")] = Path(),
    output: Output = None,
    as_json: Json = False,
) -> None:
    """For how long saving a checkpoint holds up training, in the background and in the foreground, beside a step on noise."""
    import tempfile

    from inceptionctl.recipe import load_recipe

    loaded = load_recipe(recipe, settings or ())
    refuse_unwritable(output)
    if not folder.is_dir():
        raise EnvironmentFault(f"no folder {folder}", "name an existing folder on the disk to be measured")
    batch_size = micro_batch_size or images or loaded.train.micro_batch_size
    step = [f"train.micro_batch_size={batch_size}", f"train.global_batch_size={batch_size}"]
    check_steps(load_recipe(recipe, [*(settings or ()), *step]), recipe, settings or (), 1)

    from inceptionctl.bench.checkpoint import bench_checkpoint
    from inceptionctl.bench.machine import facts

    about = facts(("inceptionctl", "torch", "safetensors"))
    with progress_of("measuring") as progress, tempfile.TemporaryDirectory(prefix="inceptionctl-bench-", dir=folder) as made:
        figures, num_bytes = bench_checkpoint(
            loaded,
            Path(made),
            _machine(None).device,
            batch_size,
            repeats,
            progress,
        )
    measured = {"recipe": recipe, "settings": settings or [], "images": batch_size, "checkpoint_bytes": num_bytes}
    tell({"bench": "checkpoint", **about, **measured}, figures, output, as_json)
