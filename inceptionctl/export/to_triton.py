"""triton/NAME/: a model repository for the Triton Inference Server, with the ONNX file, its configuration and the class names.

Source: NVIDIA's docs/user_guide/model_repository.md and model_configuration.md. `tritonserver --model-repository RUN/export/triton` serves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description
from inceptionctl.export.formats import Exporter, Logits
from inceptionctl.export.to_onnx import ONNX
from inceptionctl.stderr_capture import quiet

FOLDER = "triton"
CONFIG, LABELS = "config.pbtxt", "labels.txt"
# Names of Triton's model_config.proto for those of onnx.TensorProto.
TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "UINT8": "TYPE_UINT8", "INT64": "TYPE_INT64"}


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """config.pbtxt, labels.txt and 1/model.onnx in a folder with the network's name; the configuration follows from the file.

    Raises CheckpointError as `to_onnx.write` does.
    """
    (content,) = ONNX.write(trained, description).values()
    name = TRITON.of(trained).file.split("/")[1]
    config = _config(name, trained.recipe.evaluate.batch_size, *tensors(content))
    labels = "".join(f"{label}\n" for label in description.class_names)
    place = f"{FOLDER}/{name}"
    return {
        f"{place}/1/model.onnx": content,
        f"{place}/{CONFIG}": config.encode(),
        f"{place}/{LABELS}": labels.encode(),
    }


@dataclass(frozen=True)
class TritonTensor:
    """An input or output as Triton describes it."""

    name: str
    data_type: str
    dims: list[int]
    """Without the batch; -1 is any size."""


def tensors(content: bytes) -> tuple[list[TritonTensor], list[TritonTensor]]:
    """(inputs, outputs) of an ONNX file as Triton names them, without the batch. Raises CheckpointError if the batch is fixed."""
    import onnx

    graph = onnx.load_model_from_string(content).graph
    return [_tensor(onnx, value) for value in graph.input], [_tensor(onnx, value) for value in graph.output]


def _tensor(onnx: Any, value: Any) -> TritonTensor:
    kind = value.type.tensor_type
    batch, *rest = kind.shape.dim
    if not batch.dim_param:
        raise CheckpointError(f"{value.name} of the ONNX file has a fixed batch, which Triton cannot batch", "report this")
    kind_of_numbers = TYPES[onnx.TensorProto.DataType.Name(kind.elem_type)]
    return TritonTensor(value.name, kind_of_numbers, [dim.dim_value or -1 for dim in rest])


def _config(name: str, max_batch_size: int, inputs: list[TritonTensor], outputs: list[TritonTensor]) -> str:
    """The text of config.pbtxt. The maximum batch is the recipe's evaluation batch, which is known to fit."""
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        *(_block("input", tensor) for tensor in inputs),
        *(_block("output", tensor, LABELS) for tensor in outputs),
        "# Requests that wait at the same time are answered together.",
        "dynamic_batching { max_queue_delay_microseconds: 1000 }",
        "# On every GPU, or else on the CPU.",
        "instance_group [ { count: 1, kind: KIND_AUTO } ]",
    ]
    return "\n".join(lines) + "\n"


def _block(kind: str, tensor: TritonTensor, labels: str | None = None) -> str:
    label = f", label_filename: {json.dumps(labels)}" if labels else ""
    return f'{kind} [ {{ name: "{tensor.name}", data_type: {tensor.data_type}, dims: {tensor.dims}{label} }} ]'


def ask_triton(path: Path) -> tuple[str, Logits]:
    """The logits of the ONNX file by onnxruntime, Triton's backend, after Triton's client, if installed, has parsed the configuration.

    Raises CheckpointError when it cannot, or when the configuration does not match the file.
    """
    config = path.parent.parent / CONFIG
    by = _read_by_client(config, path)
    return f"onnxruntime ({by}; no Triton server was asked)", ONNX.open(path, torch.device("cpu")).logits


def _read_by_client(config: Path, model: Path) -> str:
    with quiet():
        try:
            from google.protobuf import text_format
            from tritonclient.grpc import model_config_pb2
        except ImportError:
            return f"{CONFIG} was not read by Triton's client: `pip install 'inceptionctl[triton]'`"
        try:
            read = text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except text_format.ParseError as error:
            raise CheckpointError(
                f"Triton's client does not read {CONFIG}: {error}; it was not written",
                "report this: it is a bug of inceptionctl",
            ) from None
    types = model_config_pb2.DataType
    said = [
        [TritonTensor(one.name, types.Name(one.data_type), [*one.dims]) for one in side] for side in (read.input, read.output)
    ]
    if said != [*tensors(model.read_bytes())]:
        raise CheckpointError(f"{CONFIG} says {said}, and the ONNX file has other tensors; it was not written", "report this")
    return f"{CONFIG} was read by Triton's client"


TRITON = Exporter(f"{FOLDER}/{{network}}/1/model.onnx", write, ONNX.open, ask_triton)
