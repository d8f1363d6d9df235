"""`inceptionctl weights`: import weights of other programs as checkpoints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json
from inceptionctl.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from inceptionctl.weights.conversion import Import

MAX_TABLE_ROWS = 20

app = typer.Typer(
    help="Fetch published weights, import those of timm, torchvision and TF-slim.", no_args_is_help=True, cls=Group
)


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A state dict (.safetensors, .pth, .pt), or a TensorFlow checkpoint (.ckpt).")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The network: a name from `inceptionctl models list`.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Checkpoint folder to create; weights/NAME by default.")
    ] = None,
    form: Annotated[
        Literal["auto", "timm", "torchvision", "tf-slim"],
        typer.Option(help="Naming scheme of the tensors; `auto` infers it from the file type."),
    ] = "auto",
    weights: Annotated[Literal["ema", "raw"], typer.Option(help="EMA or raw weights, if the file has both.")] = "ema",
    class_names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names in the order of the logits, one per line.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=2, help="Number of classes; 1001 keeps the background class of TF-slim.")
    ] = None,
    aux_head: Annotated[bool | None, typer.Option(help="Include the auxiliary head; by default as in the file.")] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="R G B", help="Subtracted from RGB in [0, 1]; by default the source program's values."),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None, typer.Option(metavar="R G B", help="Divisor after that; by default likewise.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert weights of timm, torchvision or TF-slim to a checkpoint folder.

    Every tensor must match: a missing or unexpected tensor, or one of another shape, is an error (exit code 5), and nothing is
    written. Code in a file is never executed.
    """
    from inceptionctl.models import find_spec
    from inceptionctl.weights.counterparts import read_class_names

    find_spec(model)
    names = read_class_names(class_names) if class_names else None
    # TensorFlow's checkpoints are named by what their files begin with.
    if not file.exists() and not any(file.parent.glob(f"{file.name}*")):
        raise CheckpointError(
            f"no file {file}", "name a .safetensors, .pth or .pt file with a state_dict, or a TensorFlow checkpoint (.ckpt)"
        )

    from inceptionctl.weights.conversion import prepare, write

    done = prepare(
        file,
        model,
        form=form,
        which=weights,
        class_names=names,
        num_classes=num_classes,
        aux_head=aux_head,
        mean=mean,
        std=std,
    )
    folder = output or Path("weights") / model
    write(done, folder)
    result = {"checkpoint": str(folder), **done.to_json()}
    if as_json:
        console.print_json(result)
    else:
        _print_import(done, result)
    console.say(f"wrote {folder}; next: inceptionctl evaluate {folder} --data ROOT")
    if not done.counterpart.same_function:
        from inceptionctl.weights.counterparts import TAKE_INSTEAD

        other, why = TAKE_INSTEAD[model]
        console.warn(
            f"{model} does not give the logits of {done.form}'s {done.counterpart.name}: {why}", f"use {other} for those"
        )


def _print_import(done: Import, result: console.JsonObject) -> None:
    filled = Counter(item.note for item in done.match.mapped if item.theirs is None)
    names = f"{done.classes[0]} ... {done.classes[-1]}"
    pairs = [
        ("from", f"{result['source']}: {result['form']}'s {result['their_network']}"),
        ("to", f"{result['model']}, {'with' if result['aux_head'] else 'without'} its auxiliary head"),
        ("classes", f"{result['num_classes']} ({names})" + (", background dropped" if result["background_dropped"] else "")),
        ("images", f"RGB in [0, 1], minus {_triple(result['mean'])}, divided by {_triple(result['std'])}"),
        ("tensors", f"{len(done.match.mapped) - filled.total()} matched; none missing, unexpected or of another shape"),
        *(("", f"{count} not in the file: {note}") for note, count in filled.items()),
        ("dropped", f"{len(done.match.dropped)} of the file's tensors"),
    ]
    console.print_pairs("Import", pairs)
    if done.match.dropped:
        console.out.print()
        if len(done.match.dropped) <= MAX_TABLE_ROWS:
            console.print_table("Dropped", ("name in the file", "reason"), done.match.dropped.items())
        else:
            counts = Counter(done.match.dropped.values()).items()
            console.print_table("Dropped", ("reason", "number"), counts, right=("number",))
        typer.echo("import.json in the folder lists every tensor.")


def _triple(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="timm/inception_v4.tf_in1k, hf://ORG/NAME, either with @REVISION, or https://...#sha256=HASH."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network to fill; needed for a URL, else told by the weights.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch published weights before a training needs them: for compute nodes without a network.

    They are kept under HF_HOME, once, as a checkpoint of ours. A recipe names them the same way in model.init_from.
    """
    from inceptionctl.models import find_spec
    from inceptionctl.published import parse

    published = parse(name)
    if published is None:
        raise RecipeError(
            f"'{name}' is no name of published weights", "write timm/NAME, hf://ORG/NAME or https://...#sha256=HASH"
        )
    if model:
        find_spec(model)
    from inceptionctl.weights.hub import fetch as fetch_weights

    folder = fetch_weights(published, model, console.say)
    if as_json:
        console.print_json({"name": name, "checkpoint": str(folder)})
    console.say(f"next: inceptionctl train RECIPE --set model.init_from={name}, or inceptionctl evaluate {folder} --data ROOT")
