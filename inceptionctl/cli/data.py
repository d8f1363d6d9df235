"""`inceptionctl data`: check a data set, pack it into shards, fetch the quick start's."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, Settings
from inceptionctl.cores import usable_cores
from inceptionctl.errors import DataError, EnvironmentFault, RecipeError
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.recipe.schema import Recipe

app = typer.Typer(help="Check, pack and download data sets.", no_args_is_help=True, cls=Group)


@app.command()
def check(
    root: Annotated[Path | None, typer.Argument(help="The data set, in any format; the recipe's by default.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Take the data set, its lists and exclusions from a recipe's `data` section."),
    ] = None,
    settings: Settings = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the full report as JSON.")] = None,
    write_exclusions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the list of bad images, for data.exclusions. Overwrites the file."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Also list images of this kind: duplicate, tiny, ... May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode every image once; report classes, sizes, formats, bad and odd images, duplicates, and files that are ignored.

    Exit code 3 if there are bad images, or if training would refuse the data set.
    """
    from inceptionctl.cli.data_report import print_report
    from inceptionctl.data.audit.check import check as check_data
    from inceptionctl.data.audit.probe import ODD
    from inceptionctl.data.sources.exclusions import listing
    from inceptionctl.storage import write_atomically

    unknown = [kind for kind in also or () if kind not in ODD]
    if unknown or (also and write_exclusions is None):
        what = f"--also {unknown[0]} is not a kind" if unknown else "--also needs --write-exclusions"
        raise RecipeError(what, f"kinds are {', '.join(ODD)}; bad images are always on the list")
    _check_places({"--output": output, "--write-exclusions": write_exclusions})
    loaded = _recipe(root, recipe, settings or [])
    section = loaded.data
    sources = section.sources(section.root_path)
    if write_exclusions and sources["exclusions"]:
        # Else the new list would lack what the old one leaves out.
        console.say(f"also checking the images of {sources['exclusions']}, so that the new list is complete")
        sources["exclusions"] = None
    begin = time.monotonic()
    with console.progress_bar() as bar:
        task = bar.add_task("decoding", total=None)

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - begin, 1e-9)
            bar.update(task, completed=done, total=total, description=f"decoding, {rate:,.0f} images/s")

        report = check_data(section.root_path, usable_cores(), show, sources=sources, exif_orientation=section.exif_orientation)
    seconds = time.monotonic() - begin
    result = report.to_json() | {"seconds": seconds}
    if output:
        write_atomically(output, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        console.print_json(result)
    else:
        print_report(report)
    images = sum(split.num_images for split in report.splits)
    console.say(f"decoded {counted(images, 'image')} in {console.duration(seconds)}, {images / seconds:,.0f} images/s")
    if output:
        console.say(f"wrote {output}")
    if write_exclusions:
        excluded = report.excluded(also or [])
        write_atomically(write_exclusions, listing(excluded))
        console.say(f"wrote {write_exclusions}, {counted(len(excluded), 'name')}")
    refused = list(report.refused)
    if recipe and not refused:
        refused = _refused_by_training(loaded)
    if report.bad:
        done = (
            f"`--set data.exclusions={write_exclusions}` does"
            if write_exclusions
            else "--write-exclusions FILE writes the list"
        )
        bad = f"{len(report.bad):,} of the images of {section.root_path} cannot be used"
        refused.append((bad, f"replace them, or leave them out of training: {done}"))
    for message, hint in refused[:-1]:
        console.print_error(DataError(message, hint))
    if refused:
        raise DataError(*refused[-1])


def _check_places(files: dict[str, Path | None]) -> None:
    """Refuse a file that cannot be written before hours go into what it is to hold."""
    for option, file in files.items():
        if file and (file.is_dir() or not os.access(file.absolute().parent, os.W_OK)):
            why = "is a folder" if file.is_dir() else "cannot be written: its folder is missing or not writable"
            raise EnvironmentFault(f"{option} {file} {why}", "name a file in an existing folder")


def _refused_by_training(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Why the recipe does not go with its data set: the number of classes, a subset that is not there."""
    from inceptionctl.train.preflight import open_images

    try:
        open_images(recipe)
    except DataError as fault:
        return [(fault.message, fault.hint)]
    return []


def _recipe(root: Path | None, recipe: str | None, settings: list[str]) -> Recipe:
    """What is to be checked: a recipe's section data, or the defaults, with the folder and settings of the command line."""
    from inceptionctl.recipe.load import default_recipe, load_recipe

    if root is None and recipe is None:
        raise RecipeError("no data set to check", "`inceptionctl data check ROOT`, or `--recipe RECIPE`")
    loaded = load_recipe(recipe, settings) if recipe else default_recipe(settings)
    if root is None:
        return loaded
    return loaded.model_copy(update={"data": loaded.data.model_copy(update={"root": str(root)})})


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A data set in any format, or the folder of ImageNet's tar files as downloaded."),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to create, for `data.root` of a recipe.")],
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest size of a shard: 256MB, 1GB, 200MiB.")] = "256MB",
    val_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of validation images that are not in class folders, like data.val_labels."),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names in the order of the labels, like data.class_names.")
    ] = None,
    exclusions: Annotated[Path | None, typer.Option(metavar="FILE", help="Images to leave out, like data.exclusions.")] = None,
    as_json: Json = False,
) -> None:
    """Write a data set as WebDataset shards with index and checksums. Resumes where it was stopped; output is reproducible byte for byte."""
    from inceptionctl.data.dataset import open_split, same_classes
    from inceptionctl.data.shard_writer import pack as pack_data

    shard_bytes = _bytes(shard_size)
    console.say(f"listing {source}")
    train = open_split(source, "train", class_names=class_names, exclusions=exclusions)
    val = open_split(source, "val", class_names=class_names, val_labels=val_labels, exclusions=exclusions)
    same_classes(train, val)
    with console.progress_bar() as bar:
        task = bar.add_task("packing", total=None)
        done = pack_data(
            train,
            val,
            destination,
            shard_bytes,
            lambda what, i, total: bar.update(task, description=what, completed=i, total=total),
        )
    if as_json:
        told = {"root": str(destination), "images": done.images, "shards": done.shards, "kept": done.kept, "bytes": done.bytes}
        console.print_json({**told, "classes": list(train.classes)})
    kept = f", {done.kept} of them from an earlier run" if done.kept else ""
    console.say(
        f"{counted(done.images, 'image')} in {counted(done.shards, 'shard')}{kept}, {console.size(done.bytes)}, in {destination}"
    )
    if len(train.classes) == 1:
        console.warn(f"{destination} has only one class, which cannot be trained on")
    else:
        console.say(
            f"next: inceptionctl train RECIPE --set data.root={destination} --set model.num_classes={len(train.classes)}"
        )


def _bytes(size: str) -> int:
    """256MB -> 256000000. Raises RecipeError when it is no size, or too small for a shard."""
    units = {"": 1, "B": 1} | {f"{name}B": 1000**power for power, name in enumerate("KMGT", 1)}
    units |= {f"{name}IB": 1024**power for power, name in enumerate("KMGT", 1)}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", size.strip().upper())
    if match is None or match[2] not in units:
        raise RecipeError(f"--shard-size {size} is not a size", "write 256MB, 1GB or 200MiB")
    found = int(float(match[1]) * units[match[2]])
    if found < 10_000:
        raise RecipeError(f"--shard-size {size} is too small for a shard", "usual sizes are 100MB to 1GB")
    return found


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="elpv: photographs of solar cells (CC BY-NC-SA 4.0).")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to create, for example data/elpv.")],
    cells: Annotated[str, typer.Option(help="Monocrystalline (mono), polycrystalline (poly) or all cells.")] = "all",
    as_json: Json = False,
) -> None:
    """Download a small data set of real images into train/ and val/. Prints its licence."""
    from inceptionctl.data.elpv import CELLS, fetch_elpv

    if name != "elpv":
        raise RecipeError(f"no data set '{name}' to fetch", "`elpv` is the only one")
    if cells not in (*CELLS, "all"):
        raise RecipeError(f"--cells {cells} is not a choice", "choose mono, poly or all")
    fetch_elpv(destination, console.say, CELLS if cells == "all" else (cells,))
    if as_json:
        console.print_json({"name": name, "root": str(destination)})
    console.say(f"next: inceptionctl data check {destination}")


@app.command()
def preview(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The sheet, .png or .jpg.")] = Path("preview.png"),
    settings: Settings = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, max=400, help="Images, the first of the first epoch.")] = 24,
    as_json: Json = False,
) -> None:
    """Draw a sheet of augmented training images, each with what was drawn for it."""
    from inceptionctl.stages.preview import PreviewRequest
    from inceptionctl.stages.preview import preview as draw

    done = draw(PreviewRequest(recipe, output, tuple(settings or ()), images))
    if as_json:
        told = [{"class": name, "drawn": drawn} for name, drawn in done.captions]
        console.print_json({"output": str(output), "images": told})
    console.say(f"wrote {output}, {counted(len(done.captions), 'image')}")
