"""`inceptionctl recipes`: the bundled recipes, and checks of one's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, NoData, RecipeArgument, Settings
from inceptionctl.errors import InceptionctlError, RecipeError
from inceptionctl.stages.checks import check_recipe

if TYPE_CHECKING:
    from inceptionctl.recipe import Recipe
    from inceptionctl.train.preflight import Opened

app = typer.Typer(help="List, show, suggest, copy and check recipes.", no_args_is_help=True, cls=Group)

HEADER = re.compile(r"^#\s*(\w+):\s*(.+)$")


def header_of(path: Path) -> dict[str, str]:
    """The `# key: value` lines that a bundled recipe opens with, those of one key joined; the first comment line is its `title`."""
    header: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        match = HEADER.match(line)
        if match:
            key, words = match.groups()
            header[key] = f"{header[key]} {words}" if key in header else words
        elif "title" not in header:
            header["title"] = line.lstrip("# ")
    return header


@app.command(name="list")
def list_recipes(as_json: Json = False) -> None:
    """List the bundled recipes, and the rows of the paper's tables that each reproduces."""
    from inceptionctl.recipe import bundled_ensembles, bundled_recipes, bundled_studies
    from inceptionctl.report.paper import all_rows

    of_paper = all_rows()
    kinds = {"training": bundled_recipes(), "ensemble": bundled_ensembles(), "study": bundled_studies()}
    found: list[console.JsonObject] = [
        {
            "name": name,
            "kind": kind,
            **header_of(path),
            "path": str(path),
            "rows": [row for row in of_paper if row["recipe"] == name],
        }
        for kind, recipes in kinds.items()
        for name, path in recipes.items()
    ]
    if as_json:
        console.print_json(found)
        return
    for kind, title in (
        ("training", "Bundled recipes"),
        ("ensemble", "Bundled ensemble recipes"),
        ("study", "Bundled studies"),
    ):
        rows = [(item["name"], _in_words(item)) for item in found if item["kind"] == kind]
        console.print_table(title, ("name", "what it trains"), rows, whole=("name",))
        console.out.print()
    console.say(
        "`inceptionctl recipes show NAME` prints one, `inceptionctl train NAME` trains it, `inceptionctl ensemble NAME` an ensemble,"
        " `inceptionctl study NAME` the arms of a study;"
        " Table N: the row of the paper's table (arXiv 1602.07261) that it reproduces, and the command for it; RUN is its run"
    )


def _in_words(item: console.JsonObject) -> str:
    """Title, expectation, cost, and rows of the paper's tables, a line each."""
    facts = [f"{key}: {item[key]}" for key in ("expected", "cost") if key in item]
    rows = [f"Table {row['table']}: {row['evaluation']}" for row in item["rows"]]
    return "\n".join([item.get("title", ""), *facts, *rows])


@app.command()
def show(
    name: RecipeArgument,
    settings: Settings = None,
    complete: Annotated[bool, typer.Option("--complete", help="Print every key, with defaults and what it extends.")] = False,
    as_json: Json = False,
) -> None:
    """Print a recipe as written, or with every key."""
    from inceptionctl.recipe import dump_recipe, find_recipe, load_any

    if as_json:
        console.print_json(load_any(name, settings or ()).resolved())
    elif complete or settings:
        typer.echo(dump_recipe(load_any(name, settings or ())), nl=False)
    else:
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def suggest(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set, or a folder with a folder for each class.")],
    device: Annotated[
        Literal["auto", "cpu", "gpu"], typer.Option(help="What to train on; `auto` is the GPU where there is one.")
    ] = "auto",
    init_from: Annotated[
        str | None, typer.Option(metavar="NAME", help="Weights to fine-tune: a path, timm/NAME, hf://ORG/NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a commented recipe for a data set and this machine: `inceptionctl recipes suggest photos > mine.yaml`."""
    from inceptionctl.stages.suggest import SuggestRequest
    from inceptionctl.stages.suggest import suggest as write

    text = write(SuggestRequest(root, device, init_from))
    if as_json:
        console.print_json({"recipe": text})
    else:
        typer.echo(text, nl=False)


@app.command()
def copy(
    name: RecipeArgument,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="New file, or a folder.")],
    as_json: Json = False,
) -> None:
    """Copy a recipe to edit it. Never overwrites."""
    from inceptionctl.recipe import find_recipe
    from inceptionctl.storage import disk_errors

    source = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise RecipeError(f"{target} already exists", "name another file, or remove it first")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if as_json:
        console.print_json({"recipe": source.stem, "copy": str(target)})
    console.say(f"copied {source.stem} to {target}; after editing it: `inceptionctl recipes check {target}`")


@app.command()
def check(
    path: RecipeArgument,
    settings: Settings = None,
    no_data: NoData = False,
    as_json: Json = False,
) -> None:
    """Check that a recipe can be trained here.

    Reports all problems at once, each with file:line and a hint. The exit code is that of the first kind found: 2 recipe, 3 data set,
    4 missing package, 5 initial weights. The data set that a bundled recipe names may be missing.
    """
    from inceptionctl.recipe import Recipe, Study, load_any, trainings_of

    try:
        loaded = load_any(path, settings or ())
        opened = check_recipe(path, loaded, settings or (), data=not no_data)
    except InceptionctlError as error:
        if as_json:
            console.print_json({"ok": False, "problems": [], **console.error_object(error)})
        raise
    several = {} if isinstance(loaded, Recipe) else trainings_of(loaded)
    members = [loaded] if isinstance(loaded, Recipe) else several.values()
    told = () if no_data else (_warnings(member, images) for member, images in zip(members, opened, strict=True))
    warnings = list(dict.fromkeys(words for one in told for words in one))
    for words in warnings:
        console.warn(words)
    if as_json:
        console.print_json({"ok": True, "problems": [], "warnings": warnings})
    else:
        kind = "a study of" if isinstance(loaded, Study) else "an ensemble of"
        typer.echo(f"{path}: fine" + (f", {kind} {len(several)}" if several else ""))


def _warnings(recipe: Recipe, opened: Opened | None) -> list[str]:
    """What does not stop a training on these images but should be known."""
    from inceptionctl.train.batch import BatchPlan, too_few_images

    few = too_few_images(len(opened[0]), BatchPlan(1, recipe.train.global_batch_size, 1)) if opened else None
    return ["; ".join(few)] if few else []
