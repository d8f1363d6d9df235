"""`inceptionctl export` as a call: a trained network as files for other programs, each compared with the checkpoint first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl import console
from inceptionctl.errors import RecipeError
from inceptionctl.stages.sources import local, refuse_missing_data, refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.evaluate.trained import Trained
    from inceptionctl.export.comparison import Reference
    from inceptionctl.export.exporters import ExportedFile
    from inceptionctl.export.onnx_options import OnnxOptions

Format = Literal["onnx", "safetensors", "pt2", "timm", "triton", "torchscript"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ExportRequest:
    """What to export, in which formats, and what it is compared on."""

    source: Path
    """A run or a checkpoint."""
    formats: tuple[Format, ...] = ()
    """The recipe's export.formats by default."""
    weights: Literal["ema", "raw"] = "ema"
    checkpoint: str | None = None
    """`best`, `latest` or a step; the best by default."""
    data: Path | None = None
    """Root of the data set to compare on; the recipe's by default."""
    output: Path | None = None
    """Folder for the files; RUN/export by default."""
    license: str | None = None
    data_license: str | None = None
    precisions: tuple[Precision, ...] = ()
    """Of the ONNX file: model.onnx, model_fp16.onnx, model_int8.onnx; fp32 by default."""
    preprocessing: bool = False
    """ONNX with preprocessing, from decoded images (uint8 N x H x W x 3) to probabilities: model_pixels.onnx."""
    opset: int | None = None
    calibration_images: int = 128
    """Training images to calibrate int8 on."""
    accuracy_images: int = 500
    """Validation images to measure the accuracy of fp16 and int8 on."""
    max_accuracy_loss: float = 1.0
    """Largest loss of top-1 accuracy, in percentage points, that fp16 and int8 may have."""
    check: Literal["openvino"] | None = None
    """Compare ONNX in OpenVINO too."""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    result: console.JsonObject
    """As `export --json` prints it."""
    folder: Path
    reference: Reference
    card: Path | None
    """README.md; None if there was one that inceptionctl did not write."""
    data_without_license: str | None
    """The data set whose licence the card does not state."""


def export(request: ExportRequest) -> ExportResult:
    """Write the files and a model card, README.md. An earlier export in the same place is replaced.

    Raises RecipeError, CheckpointError and DataError for what the request names, and whatever an export that differs from the checkpoint
    is refused with.
    """
    source = local(request.source)
    refuse_missing_network(source, request.checkpoint)
    refuse_missing_data(request.data)
    _refuse_without_onnx(request, request.formats or ("onnx",))

    import torch

    from inceptionctl.evaluate.subject import claim_machine
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.card import data_license_of, dataset_name, write_card

    machine = claim_machine()
    # On the CPU, where every format's program runs: exports are traced and compared in fp32.
    trained = load_trained(source, request.weights, torch.device("cpu"), request.checkpoint)
    if trained.choice and (words := trained.choice.in_words()):
        console.say(f"exporting {words}")
    folder = request.output or (trained.run.export if trained.run else None)
    if folder is None:
        raise RecipeError(
            f"{trained.checkpoint} is not in a run directory, so there is no export folder", "name one with --output DIR"
        )
    formats = request.formats or tuple(trained.recipe.export.formats)
    done, reference = _export(request, trained, formats, folder, machine.num_threads)
    card = write_card(trained, folder, done, reference.source, request.license, request.data_license)
    unstated = dataset_name(trained) if card and data_license_of(trained, request.data_license) is None else None
    return ExportResult(_result(trained, folder, done, reference, card), folder, reference, card, unstated)


def _export(
    request: ExportRequest, trained: Trained, formats: Sequence[str], folder: Path, num_threads: int
) -> tuple[Sequence[ExportedFile], Reference]:
    from inceptionctl.export.comparison import draw_reference, draw_validation
    from inceptionctl.export.exporters import EXPORTERS
    from inceptionctl.export.exporters import export as export_trained
    from inceptionctl.export.openvino_check import ask_openvino
    from inceptionctl.export.reduced import calibration_images as draw_calibration
    from inceptionctl.export.to_onnx import onnx_exporters

    options = _onnx_options(request, trained, formats)
    root = request.data or trained.recipe.data.root_path
    fewer = {item.precision for item in options} - {"fp32"}
    calibration = draw_calibration(trained, root, request.calibration_images, num_threads) if "int8" in fewer else None
    limits = request.accuracy_images, request.max_accuracy_loss
    validation = draw_validation(trained, root, *limits, num_threads) if fewer else None
    reference = draw_reference(trained, root, num_threads, with_pictures=request.preprocessing)
    of_onnx = onnx_exporters(options, calibration, (ask_openvino,) if request.check else ())
    done = export_trained(
        trained,
        [name for kind in formats for name in (of_onnx if kind == "onnx" else [kind])],
        folder,
        reference,
        lambda name: console.say(f"exporting {name} ..."),
        exporters={**EXPORTERS, **of_onnx},
        validation=validation,
    )
    return done, reference


def _onnx_options(request: ExportRequest, trained: Trained, formats: Sequence[str]) -> list[OnnxOptions]:
    """What the ONNX files are to be. Raises what keeps them from being made, before minutes of tracing."""
    from inceptionctl.export.onnx_options import OPSET, OnnxOptions, check_opset
    from inceptionctl.export.openvino_check import import_openvino
    from inceptionctl.export.preprocessing import preparation_graph
    from inceptionctl.train.inputs import preparation_of

    _refuse_without_onnx(request, formats)
    if request.opset is not None:
        check_opset(request.opset, request.preprocessing)
    if request.preprocessing:
        preparation_graph(preparation_of(trained.recipe), OPSET)
    if request.check:
        import_openvino()
    opset = request.opset or OPSET
    return [OnnxOptions(precision, request.preprocessing, opset) for precision in request.precisions or ("fp32",)]


def _refuse_without_onnx(request: ExportRequest, formats: Sequence[str]) -> None:
    if (request.precisions or request.preprocessing or request.opset or request.check) and "onnx" not in formats:
        raise RecipeError(
            "--precision, --preprocessing, --opset and --check apply to ONNX, which is not among the formats",
            "add --format onnx, or leave them out",
        )


def _result(
    trained: Trained, folder: Path, done: Sequence[ExportedFile], reference: Reference, card: Path | None
) -> console.JsonObject:
    return {
        "card": str(card) if card else None,
        "checkpoint": str(trained.checkpoint),
        "chosen": trained.choice and trained.choice.to_json(),
        "weights": trained.weights,
        "step": trained.step,
        "folder": str(folder),
        "compared_on": reference.source,
        "logit_spread": reference.logit_spread,
        "exports": [
            {
                "format": item.format,
                "path": str(item.path),
                "bytes": item.num_bytes,
                "beside": list(item.beside),
                "max_difference": item.max_difference,
                "difference_of": item.of,
                "accuracy": item.accuracy.model_dump() if item.accuracy else None,
                "seconds": item.seconds,
                "remarks": list(item.remarks),
            }
            for item in done
        ],
    }
