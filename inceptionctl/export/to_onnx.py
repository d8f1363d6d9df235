"""model.onnx and its variants: one file with weights and metadata, for onnxruntime, OpenVINO, TensorRT and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionctl.console import size
from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description, description_of_properties
from inceptionctl.export.formats import Client, Exporter, Opened
from inceptionctl.export.onnx_options import OPSET, OnnxOptions
from inceptionctl.export.preprocessing import PIXELS, put_in_front
from inceptionctl.export.reduced import Batches, to_fp16, to_int8
from inceptionctl.stderr_capture import quiet

# A protobuf message, and so an ONNX file without a second file beside it, ends at 2 GiB.
MAX_BYTES = 2**31 - 2**20
AGAIN = "export it again: `inceptionctl export RUN --format onnx`"


class Tracer:
    """Traces a network once for all its files: tracing takes longer than the rest of an export."""

    def __init__(self) -> None:
        self._traced: tuple[Trained, Any] | None = None

    def __call__(self, trained: Trained) -> Any:
        """The graph as an onnx.ModelProto, in fp32 at opset 18; do not change it."""
        if self._traced is None or self._traced[0] is not trained:
            self._traced = trained, trace(trained)
        return self._traced[1]


def trace(trained: Trained) -> Any:
    """An onnx.ModelProto: `images` float32 [batch, 3, px, px] normalised -> `logits`. The exporter folds batch norm into convolutions.

    Raises CheckpointError for a network of more than 2 GiB.
    """
    num_bytes = sum(value.numel() * value.element_size() for value in trained.model.state_dict().values())
    if num_bytes > MAX_BYTES:
        raise CheckpointError(
            f"the weights are {size(num_bytes)}, and one ONNX file holds 2 GiB", "use --format safetensors or pt2"
        )
    px = trained.recipe.model.input_px
    # A batch of two: torch specialises on a size of one.
    example = torch.zeros(2, 3, px, px, device=next(trained.model.parameters()).device)
    with quiet():
        program = torch.onnx.export(
            trained.model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # None is for dynamo=False
    proto = program.model_proto
    # Each operator carries the lines of code that it came from, with the paths of this machine.
    for item in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del item.metadata_props[:]
    del proto.graph.metadata_props[:]
    return proto


def write(
    trained: Trained,
    description: Description,
    options: OnnxOptions | None = None,
    tracer: Callable[[Trained], Any] | None = None,
    calibration: Batches | None = None,
) -> dict[str, bytes]:
    """The one file, with the description in metadata_props; `calibration` is needed for int8. Checked by onnx.checker.

    Raises CheckpointError for a network that is too large or has no form in the opset, RecipeError for other options.
    """
    import onnx

    options = options or OnnxOptions()
    proto = in_opset((tracer or trace)(trained), options.opset)
    with quiet():
        if options.precision == "fp16":
            proto = to_fp16(proto)
        elif options.precision == "int8":
            assert calibration is not None
            proto = to_int8(proto, calibration)
        if options.preprocessing:
            proto = put_in_front(proto, description.preparation)
        onnx.helper.set_model_props(proto, description_of(options, description).to_properties())
        onnx.checker.check_model(proto, full_check=True)
    return {options.file: proto.SerializeToString()}


def description_of(options: OnnxOptions, description: Description) -> Description:
    """The description of a file with these options."""
    changes: dict[str, Any] = {"precision": options.precision}
    if options.preprocessing:
        changes |= {"pixels_in": True, "input_layout": PIXELS, "output": "probabilities"}
    return description.model_copy(update=changes)


def in_opset(proto: Any, opset: int) -> Any:
    """A copy in another opset. Raises CheckpointError where onnx cannot convert an operator of this network."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if opset == OPSET:
        return copy
    for node in copy.graph.node:
        # Its default, which older opsets do not know.
        kept = [item for item in node.attribute if not (item.name == "noop_with_empty_axes" and item.i == 0)]
        del node.attribute[:]
        node.attribute.extend(kept)
    try:
        converted = onnx.version_converter.convert_version(copy, opset)
        # Runtimes as old as the opset refuse a newer form of the file.
        converted.ir_version = onnx.helper.find_min_ir_version_for(converted.opset_import)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # RuntimeError of the converter, ValidationError and InferenceError of the checker
        raise CheckpointError(
            f"this network cannot be converted to opset {opset}: {str(error).splitlines()[0]}", f"leave --opset out for {OPSET}"
        ) from None
    return converted


def noted(content: bytes, description: Description) -> bytes:
    """A file with its measured accuracy added to the metadata; the measured bytes stay its beginning."""
    import onnx

    # Concatenated protobuf messages are merged on reading.
    properties = {"accuracy": description.to_properties()["accuracy"]}
    more = onnx.ModelProto()
    onnx.helper.set_model_props(more, properties)
    return content + bytes(more.SerializeToString())


def open_export(path: Path, device: torch.device) -> Opened:
    """Load the file into onnxruntime on the CPU. Raises CheckpointError when it is damaged or not of inceptionctl."""
    with quiet():  # onnxruntime complains of machines without a GPU when it is imported
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            message = str(error).rpartition(" : ")[2] or type(error).__name__
            raise CheckpointError(f"cannot read {path}: {message}", AGAIN) from None
    description = description_of_properties(session.get_modelmeta().custom_metadata_map, f"the metadata of {path}")
    given, asked = ("pixels", "probabilities") if description.pixels_in else ("images", "logits")

    def logits(images: Tensor) -> Tensor:
        (result,) = session.run([asked], {given: images.contiguous().numpy()})
        answer = torch.from_numpy(result)
        # Log probabilities are valid logits.
        return answer.clamp_min(torch.finfo(torch.float32).tiny).log() if description.pixels_in else answer

    return Opened(description, logits)


def onnx_exporters(
    wanted: Sequence[OnnxOptions],
    calibration: Batches | None = None,
    also: tuple[Client, ...] = (),
    tracer: Callable[[Trained], Any] | None = None,
) -> dict[str, Exporter]:
    """Exporters of files with these options by their names on the screen; `also` are other programs to compare them with."""
    tracer = tracer or Tracer()
    return {
        options.name: Exporter(
            options.file,
            partial(write, options=options, tracer=tracer, calibration=calibration),
            open_export,
            takes_pixels=options.preprocessing,
            noted=noted if options.precision != "fp32" else None,
            also=also,
        )
        for options in wanted
    }


ONNX = Exporter("model.onnx", write, open_export)
