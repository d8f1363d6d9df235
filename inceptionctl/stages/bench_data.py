"""`inceptionctl bench data`, `photographs` and `lists`: the data path without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inceptionctl import console
from inceptionctl.errors import DataError
from inceptionctl.stages.bench_io import images_for, progress_bar, refuse_unwritable, this_machine, with_figures, written
from inceptionctl.words import counted

_PACKAGES = ("inceptionctl", "torch", "nvidia-dali-cuda130", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class BenchDataRequest:
    """The arguments and options of `inceptionctl bench data`."""

    recipe: str = "inception_v4"
    settings: Sequence[str] = ()
    data: Path | None = None
    """Photographs to take, from anywhere below; else the recipe's training images."""
    images: int = 960
    """Images that one round reads, in the recipe's micro batches."""
    repeats: int = 5
    threads: int | None = None
    """Threads and worker processes; as many as cores by default."""
    output: Path | None = None


@dataclass(frozen=True)
class BenchPhotographsRequest:
    """The arguments and options of `inceptionctl bench photographs`."""

    source: Path
    destination: Path
    """A folder that does not exist yet."""
    images: int = 1000
    seed: int = 0
    size: tuple[int, int] = (500, 375)
    """Width and height in px."""


@dataclass(frozen=True)
class BenchListsRequest:
    """The options of `inceptionctl bench lists`."""

    images: int = 1_281_167
    classes: int = 1000
    ranks: int = 1
    output: Path | None = None


def data(request: BenchDataRequest) -> console.JsonObject:
    """Images a second of a recipe's data path, stage by stage, beside a Pillow loader and libjpeg-turbo: what `--json` prints.

    Raises RecipeError, DataError for images that are missing or cannot be decoded, and EnvironmentFault for an `output` that cannot be written.
    """
    from inceptionctl.recipe import load_recipe

    # What is wrong is said before torch and DALI are loaded.
    recipe = load_recipe(request.recipe, request.settings)
    refuse_unwritable(request.output)
    images = images_for(request.data, recipe, "train")

    from inceptionctl.bench.data_rate import bench_data
    from inceptionctl.bench.machine_facts import facts
    from inceptionctl.train.inputs import loader_settings, train_transforms

    machine = this_machine(request.threads)
    loading = loader_settings(recipe, machine.device, machine.num_threads)
    about = facts(_PACKAGES)
    with progress_bar("measuring") as progress:
        figures, left_out = bench_data(
            images,
            train_transforms(recipe),
            loading,
            seed=recipe.train.seed,
            batch_size=min(recipe.train.micro_batch_size, recipe.train.global_batch_size),
            num_images=request.images,
            repeats=request.repeats,
            progress=progress,
        )
    result = {
        "bench": "data",
        **about,
        "recipe": request.recipe,
        "settings": list(request.settings),
        "images": request.images,
        "threads": loading.num_threads,
        "decode": loading.decode,
        "decode_roi": loading.decode_roi,
        "values": str(loading.dtype).removeprefix("torch."),
        "left_out": left_out,
    }
    return written(with_figures(result, figures), request.output)


def photographs(request: BenchPhotographsRequest) -> console.JsonObject:
    """Make JPEGs like ImageNet's out of other photographs; {"folder": ..., "images": ..., "bytes": ...}.

    Raises DataError for sources that are missing or too small, and a destination that exists.
    """
    from inceptionctl.bench.photographs import images_below, make_photographs

    sources, destination = images_below(request.source), request.destination
    if destination.exists():
        raise DataError(f"{destination} exists already", "name a folder that is to be made")
    with console.progress_bar() as bar:
        task = bar.add_task("making", total=request.images)
        num_bytes = make_photographs(
            sources,
            destination,
            request.images,
            request.seed,
            lambda done, _: bar.update(task, completed=done),
            request.size,
        )
    return {"folder": str(destination), "images": request.images, "bytes": num_bytes}


def lists(request: BenchListsRequest) -> console.JsonObject:
    """Seconds and memory of opening a synthetic list of images in several processes at once: what `--json` prints."""
    from inceptionctl.bench.lists import bench_lists
    from inceptionctl.bench.machine_facts import facts

    refuse_unwritable(request.output)
    images, ranks = request.images, request.ranks
    about = facts(("inceptionctl", "numpy"))
    with console.working(f"opening a list of {counted(images, 'image')} in {counted(ranks, 'process', 'processes')}"):
        figures = bench_lists(images, request.classes, ranks)
    result = {"bench": "lists", **about, "images": images, "classes": request.classes, "ranks": ranks}
    return written(with_figures(result, figures), request.output)
