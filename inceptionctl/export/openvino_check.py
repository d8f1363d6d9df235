"""OpenVINO as a second runtime to compare an ONNX file in; the only importer of openvino."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.export.formats import Logits


def ask_openvino(path: Path) -> tuple[str, Logits]:
    """OpenVINO's name with its version, and its logits on the CPU. Raises CheckpointError when it rejects the file."""
    openvino = import_openvino()
    core = openvino.Core()
    # bfloat16 by default where the processor has it: 0.09 off on logits up to 8, instead of 4e-6.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    name = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    try:
        # The file may be removed before the network: read_model would map it into memory.
        compiled = core.compile_model(core.read_model(path.read_bytes()), "CPU", exact)
    except Exception as error:  # RuntimeError and exceptions of its own
        raise CheckpointError(
            f"{name} rejects the export: {_essence(error)}; it was not written", "leave --check openvino out"
        ) from None
    pixels_in = compiled.input(0).get_any_name() == "pixels"

    def logits(images: Tensor) -> Tensor:
        # A copy: the result lies in the request's memory.
        answer = torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())
        return answer.clamp_min(torch.finfo(torch.float32).tiny).log() if pixels_in else answer

    return name, logits


def import_openvino() -> Any:
    """The package, without its telemetry. Raises EnvironmentFault where it is not installed."""
    if "openvino" not in sys.modules:
        # Importing openvino alone sends a message in a child process; without this package it takes its own stand-in, which does not.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EnvironmentFault(
            f"--check openvino needs OpenVINO: {error}", "install it: pip install 'inceptionctl[openvino]'"
        ) from None
    return openvino


def _essence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
