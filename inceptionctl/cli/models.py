"""`inceptionctl models`: the networks that a recipe can name, and what they cost."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.errors import Problem, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from inceptionctl.models import ModelSpec
    from inceptionctl.recipe.schema import ModelSection

app = typer.Typer(help="List the networks, show one.", no_args_is_help=True)


@app.command(name="list")
def list_models(as_json: Json = False) -> None:
    """List the networks with their size and the paper's errors."""
    from inceptionctl.models import MODELS

    found = [_listed(name, spec) for name, spec in MODELS.items()]
    if as_json:
        console.print_json(found)
        return
    rows = [
        (
            item["name"],
            item["input_px"],
            f"{item['parameters']:,}",
            f"{item['paper_top1_error_percent']:.1f}",
            f"{item['paper_top5_error_percent']:.1f}",
            item["source"],
        )
        for item in found
    ]
    columns = ("name", "input px", "parameters", "top-1 error %", "top-5 error %", "paper")
    console.print_table("Networks, with the paper's single-crop errors", columns, rows, right=columns[1:5])
    console.say("`inceptionctl models show NAME` shows the stages of one")


def _listed(name: str, spec: ModelSpec) -> dict[str, Any]:
    from inceptionctl.models.summary import count_parameters
    from inceptionctl.recipe.schema import ModelSection

    return {
        "name": name,
        "source": spec.source,
        "input_px": spec.default_input_px,
        "min_input_px": spec.min_input_px,
        "parameters": count_parameters(_built(ModelSection(name=name))),
        "paper_top1_error_percent": spec.paper_top1_error_percent,
        "paper_top5_error_percent": spec.paper_top5_error_percent,
    }


def _built(section: ModelSection) -> nn.Module:
    """The network without values: what it costs depends on shapes alone."""
    import torch

    from inceptionctl.models import build_model

    with torch.device("meta"):
        return build_model(section.name, num_classes=section.num_classes, width=section.width)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name from `inceptionctl models list`.")],
    num_classes: Annotated[int | None, typer.Option(help="Number of classes; 1000 by default.")] = None,
    width: Annotated[float | None, typer.Option(help="Factor on every channel count; 1.0 by default.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Side of the input in pixels; the paper's by default.")] = None,
    as_json: Json = False,
) -> None:
    """Show parameters, multiply-adds and the stages of a network."""
    from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds

    spec = _known(name)
    wanted = {"name": name, "num_classes": num_classes, "width": width, "input_px": input_px or spec.default_input_px}
    section = _checked({key: value for key, value in wanted.items() if value is not None})
    network = _built(section)
    about = {
        **section.model_dump(include=set(wanted)),
        "source": spec.source,
        "min_input_px": spec.min_input_px,
        "parameters": count_parameters(network),
        "multiply_adds": multiply_adds(network, section.input_px),
        "paper_top1_error_percent": spec.paper_top1_error_percent,
        "paper_top5_error_percent": spec.paper_top5_error_percent,
    }
    stages = [
        {
            "name": stage.name,
            "source": stage.source,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "multiply_adds": stage.multiply_adds,
        }
        for stage in endpoints(network, section.input_px)
    ]
    if as_json:
        console.print_json({**about, "endpoints": stages})
    else:
        _print_network(about, stages)


def _known(name: str) -> ModelSpec:
    from inceptionctl.models import MODELS

    if name in MODELS:
        return MODELS[name]
    nearest = difflib.get_close_matches(name, MODELS, n=1)
    guess = f"did you mean `{nearest[0]}`? " if nearest else ""
    raise RecipeError(f"no network '{name}'", f"{guess}known: {', '.join(MODELS)}")


def _checked(wanted: dict[str, Any]) -> ModelSection:
    """The model section of a recipe with these keys: its bounds are the only ones."""
    from inceptionctl.recipe import recipe_from_dict

    try:
        return recipe_from_dict({"model": wanted}, wanted["name"]).model
    except RecipeError as error:
        raise RecipeError(
            f"{wanted['name']} cannot be built like this", problems=[_of_option(item) for item in error.problems]
        ) from None


def _of_option(problem: Problem) -> Problem:
    """A recipe's problem as one of the option that stands for its key: `model.width: ...` is of `--width`."""
    key = re.match(r"model(?:\.|: )(\w+)", problem.message)
    where = f"--{key[1].replace('_', '-')}" if key else problem.where
    return Problem(where, re.sub(r"^model(\.|: )", "", problem.message), problem.hint)


def _print_network(about: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    pairs = [
        ("paper", about["source"]),
        ("input", f"{about['input_px']} x {about['input_px']} px (at least {about['min_input_px']})"),
        ("classes", about["num_classes"]),
        ("width", f"{about['width']:g}"),
        ("parameters", f"{about['parameters']:,}"),
        ("multiply-adds", f"{about['multiply_adds']:,} an image"),
        (
            "paper's errors",
            f"top-1 {about['paper_top1_error_percent']:.1f}%, top-5 {about['paper_top5_error_percent']:.1f}%, at width 1",
        ),
    ]
    console.print_pairs(about["name"], pairs)
    rows = [
        (
            stage["name"],
            " x ".join(str(side) for side in stage["shape"]),
            f"{stage['parameters']:,}",
            f"{stage['multiply_adds'] / 1e6:,.1f}",
            stage["source"],
        )
        for stage in stages
    ]
    columns = ("stage", "leaves (H x W x C)", "parameters", "million multiply-adds", "source")
    console.out.print()
    console.print_table("Stages", columns, rows, right=columns[1:4])
