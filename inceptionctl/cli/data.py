"""`inceptionctl data`: check a data set, pack it into shards, fetch the quick start's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.cores import usable_cores
from inceptionctl.errors import DataError, RecipeError

app = typer.Typer(help="Check, pack and fetch data sets.", no_args_is_help=True)


@app.command()
def check(root: Annotated[Path, typer.Argument(help="Folder with train/ and val/.")], as_json: Json = False) -> None:
    """Decode every image once; report classes, counts, sizes and unreadable files. Exit code 3 if there are any."""
    from inceptionctl.data.check import check as check_data

    with console.progress_bar() as bar:
        task = bar.add_task("decoding", total=None)
        report = check_data(root, usable_cores(), lambda done, total: bar.update(task, completed=done, total=total))
    result = report.to_json()
    if as_json:
        console.print_json(result)
    else:
        _print_report(root, result)
    unreadable = [item for split in result["splits"] for item in split["unreadable"]]
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of the files under {root} cannot be read",
            "remove or replace them; training stops at such a file",
        )


def _print_report(root: Path, result: dict[str, Any]) -> None:
    rows = []
    for split in result["splits"]:
        counts = split["class_counts"].values()
        sizes = " x ".join(f"{split[side]['min']}/{split[side]['median']}/{split[side]['max']}" for side in ("width", "height"))
        per_class = f"{min(counts)}/{round(sum(counts) / len(counts))}/{max(counts)}"
        formats = ", ".join(f"{name} {count}" for name, count in split["formats"].items())
        row = (
            split["split"],
            split["num_images"],
            len(counts),
            per_class,
            sizes,
            formats,
            console.size(split["bytes"]),
            len(split["unreadable"]),
        )
        rows.append(row)
    columns = (
        "split",
        "images",
        "classes",
        "a class min/mean/max",
        "width x height min/median/max",
        "formats",
        "size",
        "unreadable",
    )
    console.print_table(f"Images under {root}", columns, rows, right=("images", "classes", "size", "unreadable"))
    names = [name for split in result["splits"][:1] for name in split["class_counts"]]
    if len(names) <= 20:
        by_class = [(name, *(split["class_counts"].get(name, 0) for split in result["splits"])) for name in names]
        splits = [split["split"] for split in result["splits"]]
        console.print_table("Images a class", ("class", *splits), by_class, right=splits)
    for problem in result["problems"]:
        console.warn(problem)
    remarks = [(item["path"], item["reason"]) for split in result["splits"] for item in split["remarks"]]
    if remarks:
        console.print_table("Files that decode with a remark", ("file", "remark"), remarks)
    bad = [(item["path"], item["reason"]) for split in result["splits"] for item in split["unreadable"]]
    if bad:
        console.print_table("Unreadable files", ("file", "reason"), bad)


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A data set of any form, or the folder of ImageNet's tars as downloaded.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to make: `data.root` of a recipe.")],
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Most bytes of a shard: 256MB, 1GB, 200MiB.")] = "256MB",
    val_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labels of validation images without class folders, as data.val_labels.")
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names in the order of the labels, as data.class_names.")
    ] = None,
) -> None:
    """Write a data set as WebDataset shards with index and checksums. Goes on where it was stopped; the same bytes on every run."""
    from inceptionctl.data.dataset import open_split, same_classes
    from inceptionctl.data.packing import pack as pack_data

    shard_bytes = _bytes(shard_size)
    console.say(f"listing {source}")
    train = open_split(source, "train", class_names=class_names)
    val = open_split(source, "val", class_names=class_names, val_labels=val_labels)
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
    kept = f", {done.kept} of them kept from before" if done.kept else ""
    console.say(f"{done.images} images in {done.shards} shards{kept}, {console.size(done.bytes)}, in {destination}")
    console.say(f"next: inceptionctl train RECIPE --set data.root={destination} --set model.num_classes={len(train.classes)}")


def _bytes(size: str) -> int:
    """256MB -> 256000000. Raises RecipeError when it is no size, or too small for a shard."""
    units = {"": 1, "B": 1} | {f"{name}B": 1000**power for power, name in enumerate("KMGT", 1)}
    units |= {f"{name}IB": 1024**power for power, name in enumerate("KMGT", 1)}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", size.strip().upper())
    if match is None or match[2] not in units:
        raise RecipeError(f"--shard-size {size} is no size", "write 256MB, 1GB or 200MiB")
    found = int(float(match[1]) * units[match[2]])
    if found < 10_000:
        raise RecipeError(f"--shard-size {size} is too small for a shard", "usual sizes are 100MB to 1GB")
    return found


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="elpv: photographs of solar cells (CC BY-NC-SA 4.0).")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to make, for example data/elpv.")],
    cells: Annotated[str, typer.Option(help="Cells of one crystal (mono), of many (poly), or all, in four classes.")] = "all",
) -> None:
    """Fetch a small real data set and lay it out in train/ and val/. Prints its licence."""
    from inceptionctl.data.elpv import CELLS, fetch_elpv

    if name != "elpv":
        raise RecipeError(f"no data set '{name}' to fetch", "the one that can be fetched is `elpv`")
    if cells not in (*CELLS, "all"):
        raise RecipeError(f"--cells {cells} is not a choice", "choose mono, poly or all")
    fetch_elpv(destination, console.say, CELLS if cells == "all" else (cells,))
    console.say(f"next: inceptionctl data check {destination}")
