"""`inceptionctl export`: a trained network as files for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.options import CheckpointOption, Json, WeightsOption, requested, run_named

if TYPE_CHECKING:
    from inceptionctl.export.checking import Sample


class Format(StrEnum):
    """File formats of `export`; an enumeration because Typer takes no list of literals."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    PT2 = "pt2"
    TIMM = "timm"
    TRITON = "triton"
    TORCHSCRIPT = "torchscript"


class OnnxPrecision(StrEnum):
    """Numbers of an ONNX file."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT",
        help="A run directory or its name under runs/, a folder checkpoints/step-... in one, or one of `weights import`.",
        callback=run_named,
    ),
]


def export(
    source: Source,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="May be repeated; the recipe's export.formats by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = None,
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
    precisions: Annotated[
        list[OnnxPrecision] | None,
        typer.Option("--precision", help="Of the ONNX file; may be repeated: model.onnx, model_fp16.onnx, model_int8.onnx."),
    ] = None,
    preprocessing: Annotated[
        bool,
        typer.Option(
            "--preprocessing", help="ONNX from decoded pictures (uint8 N x H x W x 3) to probabilities: model_pixels.onnx."
        ),
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Of the ONNX file; 18 by default.")] = None,
    calibration_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training images that int8 takes its ranges from.")
    ] = 128,
    accuracy_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Validation images on which the loss of fp16 and int8 is measured.")
    ] = 500,
    max_accuracy_loss: Annotated[
        float,
        typer.Option(min=0.0, metavar="POINTS", help="Of top-1 accuracy; fp16 and int8 are not written when they lose more."),
    ] = 1.0,
    check: Annotated[
        Literal["openvino"] | None, typer.Option(help="Compare ONNX in OpenVINO too; needs inceptionctl[openvino].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as files for other programs, each compared with the checkpoint first, and a model card, README.md.

    An earlier export in the same place is replaced; a README.md that is not of inceptionctl stays.
    """
    from inceptionctl.stages.export import ExportRequest
    from inceptionctl.stages.export import export as export_network

    request = requested(
        locals(),
        ExportRequest,
        formats=[kind.value for kind in formats or ()],
        precisions=[precision.value for precision in precisions or ()],
    )
    done = export_network(request)
    _print_exports(done.result, done.sample, as_json)
    if done.data_without_license:
        console.say(
            f"hint: {done.card} does not state the licence of {done.data_without_license}:"
            " --data-license TEXT, or export.data_license in the recipe"
        )
    if done.card is None:
        console.warn(f"{done.folder / 'README.md'} is not of inceptionctl and stays as it is", "rename it to get a model card")


def _print_exports(result: console.JsonObject, sample: Sample, as_json: bool) -> None:
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
            for line in _differently_compared(item):
                console.out.print(line)
            for remark in item["remarks"]:
                console.out.print(f"{item['format']}: {remark}")
    console.say(f"wrote {result['folder']}")
    if not sample.tells:
        console.warn(
            f"the logits hardly differ between images (by {sample.logit_spread:.1e}), so the comparison says little",
            "export a network that was trained for longer",
        )


def _differently_compared(item: console.JsonObject) -> list[str]:
    """What the line about the differences does not say."""
    file, found = Path(item["path"]).name, item["accuracy"]
    if found:
        low, high = found["loss_interval"]
        return [
            f"{file}: {found['top1']:.2f}% right of {found['num_images']} validation images, {found['top1_checkpoint']:.2f}% by the"
            f" checkpoint ({found['loss']:.2f} points lost, 95%: {low:.2f} to {high:.2f}); the same class for"
            f" {found['agreement']:.2f}%; a probability differs by up to {found['max_probability_difference']:.2g}"
        ]
    return [f"{file}: the difference is of a probability"] if item["difference_of"] == "probability" else []
