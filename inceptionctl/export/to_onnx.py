"""model.onnx: one file with weights and metadata, for onnxruntime, OpenVINO, TensorRT and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionctl.console import size
from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description, description_of_properties
from inceptionctl.export.forms import Exporter, Opened
from inceptionctl.export.quiet import quiet

# What torch's exporter writes without converting; every current runtime reads it.
OPSET = 18
# A protobuf message, and so an ONNX file without a second file beside it, ends at 2 GiB.
MOST_BYTES = 2**31 - 2**20


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """The one file: input `images` float32 [batch, 3, px, px] normalised, output `logits`, the description in metadata_props.

    Checked by onnx.checker. Raises CheckpointError for a network of more than 2 GiB.
    """
    num_bytes = sum(value.numel() * value.element_size() for value in trained.model.state_dict().values())
    if num_bytes > MOST_BYTES:
        raise CheckpointError(
            f"the weights are {size(num_bytes)}, and one ONNX file holds 2 GiB", "use --format safetensors or pt2"
        )
    with quiet():
        return {"model.onnx": _proto(trained, description).SerializeToString()}


def _proto(trained: Trained, description: Description) -> Any:
    import onnx

    px = trained.recipe.model.input_px
    # A batch of two: torch takes a size of one for a constant.
    example = torch.zeros(2, 3, px, px, device=next(trained.model.parameters()).device)
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
    onnx.helper.set_model_props(proto, description.to_properties())
    onnx.checker.check_model(proto, full_check=True)
    return proto


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
            raise CheckpointError(
                f"cannot read {path}: {message}", "export it again: `inceptionctl export RUN --format onnx`"
            ) from None
    description = description_of_properties(session.get_modelmeta().custom_metadata_map, f"the metadata of {path}")

    def logits(images: Tensor) -> Tensor:
        (result,) = session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(result)

    return Opened(description, logits)


ONNX = Exporter("model.onnx", write, open_export)
