"""How tests ask an ONNX model and the command."""

import numpy as np
import onnx
import onnxruntime
import torch
from click.testing import Result
from typer.testing import CliRunner

from inceptionctl.cli import app


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def answers(model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    """Batches of one and of the others."""
    asked = session(model)
    return np.concatenate([asked.run(["logits"], {"images": part.numpy()})[0] for part in (images[:1], images)])[1:]


def run_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
