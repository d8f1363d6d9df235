"""`inceptionctl export`: a trained network as files for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import CheckpointOption, Json, WeightsOption
from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.export.checking import Sample


class Format(StrEnum):
    """File formats of `export`; an enumeration because Typer takes no list of literals."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    PT2 = "pt2"
    TIMM = "timm"
    TRITON = "triton"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT", help="A run directory, a folder checkpoints/step-... in one, or one of `weights import`."
    ),
]


def export(
    source: Source,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="May be repeated; the recipe's export.formats by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = "latest",
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder with val/<class>/* to compare on; the recipe's by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the files; RUN/export by default.")] = None,
    license: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the weights for README.md; the recipe's export.license by default."),
    ] = None,
    data_license: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Licence of the data set for it; the recipe's export.data_license by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as files for other programs, each compared with the checkpoint first, and a model card, README.md.

    An earlier export in the same place is replaced; a README.md that is not of inceptionctl stays.
    """
    import torch

    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.card import write_card
    from inceptionctl.export.checking import draw_sample
    from inceptionctl.export.exporting import export as export_trained

    machine = claim_machine()
    # On the CPU: exports are traced and compared in fp32, which GPUs round to TF32 in convolutions.
    trained = load_trained(source, weights, torch.device("cpu"), checkpoint)
    folder = output or (trained.run.export if trained.run else None)
    if folder is None:
        raise RecipeError(
            f"{trained.checkpoint} lies in no run directory, so there is no export folder", "name one with --output DIR"
        )
    sample = draw_sample(trained, data or trained.recipe.data.root_path, machine.num_threads)
    done = export_trained(
        trained,
        [kind.value for kind in formats or ()] or trained.recipe.export.formats,
        folder,
        sample,
        lambda name: console.say(f"exporting {name} ..."),
    )
    card = write_card(trained, folder, done, sample.source, license, data_license)
    result = {
        "card": str(card) if card else None,
        "checkpoint": str(trained.checkpoint),
        "weights": trained.weights,
        "step": trained.step,
        "folder": str(folder),
        "compared_on": sample.source,
        "logit_spread": sample.logit_spread,
        "exports": [
            {
                "format": item.format,
                "path": str(item.path),
                "bytes": item.num_bytes,
                "max_difference": item.max_difference,
                "seconds": item.seconds,
                "remarks": list(item.remarks),
            }
            for item in done
        ],
    }
    _print_exports(result, sample, as_json)
    if card is None:
        console.warn(f"{folder / 'README.md'} is not of inceptionctl and stays as it is", "rename it to get a model card")


def _print_exports(result: dict[str, Any], sample: Sample, as_json: bool) -> None:
    if as_json:
        console.print_json(result)
    else:
        rows = [
            (
                str(Path(item["path"]).relative_to(result["folder"])),
                console.size(item["bytes"]),
                f"{item['max_difference']:.1e}",
                f"{item['seconds']:.1f}",
            )
            for item in result["exports"]
        ]
        columns = ("file", "size", "largest difference", "seconds")
        console.print_table(f"Exports of {result['checkpoint']}, {result['weights']} weights", columns, rows, right=columns[1:])
        console.out.print(
            f"difference: of a logit from the checkpoint's in fp32, on {sample.source};"
            f" between these images a logit differs by up to {sample.logit_spread:.3g}"
        )
        for item in result["exports"]:
            for remark in item["remarks"]:
                console.out.print(f"{item['format']}: {remark}")
    console.say(f"wrote {result['folder']}")
    if not sample.tells:
        console.warn(
            f"the logits hardly differ between images (by {sample.logit_spread:.1e}), so the comparison says little",
            "export a network that was trained for longer",
        )
