"""`inceptionctl models`: the networks that a recipe can name, and what they cost."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json
from inceptionctl.errors import Problem, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from inceptionctl.models import ModelSpec
    from inceptionctl.models.summary import Endpoint
    from inceptionctl.recipe.model_section import ModelSection

app = typer.Typer(help="List the networks and show one.", no_args_is_help=True, cls=Group)


@app.command(name="list")
def list_models(as_json: Json = False) -> None:
    """List the networks with their sizes and the paper's errors."""
    from inceptionctl.models import MODELS

    found = [_listed(name, spec) for name, spec in MODELS.items()]
    if as_json:
        console.print_json(found)
        return
    errors = ("paper_top1_error_percent", "paper_top5_error_percent")
    rows = [
        (
            item["name"],
            item["input_px"],
            f"{item['parameters']:,}",
            *("-" if item[key] is None else f"{item[key]:.1f}" for key in errors),
            _arxiv(item["source"]),
        )
        for item in found
    ]
    columns = ("name", "px", "parameters", "top-1 %", "top-5 %", "paper")
    title = "Networks, with the Inception-v4 paper's single-crop errors"
    console.print_table(title, columns, rows, right=columns[1:5], whole=columns[:1])
    console.say("`inceptionctl models show NAME` shows the stages of one; timm/NAME is a network of timm, if installed")


def _listed(name: str, spec: ModelSpec) -> console.JsonObject:
    from inceptionctl.recipe.model_section import ASSUMED_CLASSES, ModelSection

    return {
        "name": name,
        "source": spec.source,
        "input_px": spec.default_input_px,
        "min_input_px": spec.min_input_px,
        **_parameters(_built(ModelSection(name=name, num_classes=ASSUMED_CLASSES))),
        "paper_top1_error_percent": spec.paper_top1_error_percent,
        "paper_top5_error_percent": spec.paper_top5_error_percent,
    }


def _built(section: ModelSection) -> nn.Module:
    """The network on the meta device: its costs depend on shapes only."""
    import torch

    from inceptionctl.models import build_model

    with torch.device("meta"):
        return build_model(**section.network())


def _parameters(network: nn.Module) -> dict[str, int | None]:
    """Parameters without the auxiliary head, and those of the auxiliary head, null where there is none."""
    from inceptionctl.models.summary import count_parameters

    head = getattr(network, "aux_head", None)
    of_head = count_parameters(head) if head is not None else None
    return {"parameters": count_parameters(network) - (of_head or 0), "aux_head_parameters": of_head}


def _arxiv(source: str) -> str:
    """The number of the paper in a source, all that a narrow table has room for."""
    found = re.search(r"arXiv [\d.]*\d", source)
    return found[0] if found else source


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name from `inceptionctl models list`, or timm/NAME.")],
    num_classes: Annotated[int, typer.Option(help="Number of classes.")] = 1000,
    width: Annotated[float | None, typer.Option(help="Multiplier of all channel counts; 1.0 by default.")] = None,
    input_px: Annotated[int | None, typer.Option(help="Input resolution in pixels; the paper's by default.")] = None,
    aux_head: Annotated[
        bool | None,
        typer.Option("--aux-head/--no-aux-head", help="Include the auxiliary head; by default as in the network's paper."),
    ] = None,
    residual_scale: Annotated[
        str | None, typer.Option(help="Inception-ResNets: scale of the residuals; one number, or three, one per grid size.")
    ] = None,
    residual_unit: Annotated[str | None, typer.Option(help="ResNets: `original` or `bottleneck`.")] = None,
    as_json: Json = False,
) -> None:
    """Show the parameters, multiply-adds (MACs) and stages of a network."""
    spec = _known(name)
    wanted = {
        "name": name,
        "num_classes": num_classes,
        "width": width,
        "input_px": spec.default_input_px if input_px is None else input_px,
        "aux_head": aux_head,
        "residual_scale": _numbers(residual_scale),
        "residual_unit": residual_unit,
    }
    section = _checked({key: value for key, value in wanted.items() if value is not None})
    from inceptionctl.models.summary import endpoints, multiply_adds

    network = _built(section)
    about = {
        **section.model_dump(include={"name", "num_classes", "width", "input_px"}),
        **{
            option: getattr(spec if getattr(section, option) is None else section, option)
            for option in ("aux_head", "residual_scale", "residual_unit")
        },
        "source": spec.source,
        "min_input_px": spec.min_input_px or None,
        **_parameters(network),
        "multiply_adds": multiply_adds(network, section.input_px),
        "paper_top1_error_percent": spec.paper_top1_error_percent,
        "paper_top5_error_percent": spec.paper_top5_error_percent,
    }
    found = endpoints(network, section.input_px)
    if as_json:
        console.print_json({**about, "endpoints": [asdict(stage) for stage in found]})
    else:
        _print_network(about, found)


def _numbers(text: str | None) -> Any:
    """`0.1` as a number, `0.1,0.2,0.3` as a list of them; what is no number stays text, for the recipe's check to word."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return values[0] if len(values) == 1 else values


def _known(name: str) -> ModelSpec:
    """The facts of a network: its line of MODELS, or what timm knows of it. Raises RecipeError."""
    from inceptionctl.models import ModelSpec, find_spec, is_timm

    if not is_timm(name):
        return find_spec(name)
    from inceptionctl.models.timm_network import default_input_px

    return ModelSpec("timm:create_model", default_input_px(name), 0, "timm")


def _checked(wanted: console.JsonObject) -> ModelSection:
    """The model section of a recipe with these keys: its bounds are the only ones."""
    from inceptionctl.recipe import recipe_from_dict

    try:
        return recipe_from_dict({"model": wanted}, wanted["name"]).model
    except RecipeError as error:
        raise RecipeError(
            f"{wanted['name']} cannot be built with these options", problems=[_of_option(item) for item in error.problems]
        ) from None


def _of_option(problem: Problem) -> Problem:
    """A recipe's problem as one of the option that stands for its key: `model.width: ...` is of `--width`."""
    key = re.match(r"model(?:\.|: )(\w+)", problem.message)
    where = f"--{key[1].replace('_', '-')}" if key else problem.where
    message = re.sub(r"^model(\.|: )", "", problem.message)
    return Problem(where, message.removeprefix(f"{key[1]}: ") if key else message, problem.hint)


def _print_network(about: console.JsonObject, stages: Sequence[Endpoint]) -> None:
    smallest, of_head = about["min_input_px"], about["aux_head_parameters"]
    top1, top5 = about["paper_top1_error_percent"], about["paper_top5_error_percent"]
    scale = about["residual_scale"]
    in_words = {
        "residual scale": ", ".join(f"{part:g}" for part in scale) if isinstance(scale, tuple) else scale,
        "residual unit": about["residual_unit"],
    }
    options = [(label, value) for label, value in in_words.items() if value is not None]
    pairs = [
        ("paper", about["source"]),
        ("input", f"{about['input_px']} x {about['input_px']} px" + (f" (at least {smallest})" if smallest else "")),
        ("classes", about["num_classes"]),
        ("width", f"{about['width']:g}"),
        *options,
        ("parameters", f"{about['parameters']:,}" + (f", plus {of_head:,} of the auxiliary head" if of_head else "")),
        ("multiply-adds", f"{about['multiply_adds']:,} per image (MACs)"),
        ("paper's errors", f"top-1 {top1:.1f}%, top-5 {top5:.1f}%, at width 1" if top1 is not None else "-"),
    ]
    console.print_pairs(about["name"], pairs)
    rows = [
        (
            stage.name,
            " x ".join(map(str, stage.shape)),
            f"{stage.parameters:,}",
            f"{stage.multiply_adds / 1e6:,.1f}",
            stage.source,
        )
        for stage in stages
    ]
    columns = ("stage", "output (H x W x C)", "parameters", "million MACs", "source")
    console.out.print()
    console.print_table("Stages", columns, rows, right=columns[1:4])
