"""Options of an ONNX file, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inceptionctl.errors import RecipeError

OnnxPrecision = Literal["fp32", "fp16", "int8"]

# What torch's exporter writes natively; every current runtime reads it.
OPSET = 18
# The lowest that onnx converts down to; the highest is the newest that onnx and onnxruntime support.
LEAST_OPSET = 14
# ONNX's Resize antialiases since this one.
LEAST_WITH_PREPROCESSING = 18


@dataclass(frozen=True)
class OnnxOptions:
    """One ONNX file."""

    precision: OnnxPrecision = "fp32"
    preprocessing: bool = False
    """Whether it takes decoded pictures and returns probabilities."""
    opset: int = OPSET

    @property
    def file(self) -> str:
        """model.onnx, model_int8.onnx, model_pixels.onnx, model_pixels_int8.onnx, ..."""
        parts = ["model", *(["pixels"] if self.preprocessing else []), *([self.precision] if self.precision != "fp32" else [])]
        return "_".join(parts) + ".onnx"

    @property
    def name(self) -> str:
        """Its name on the screen."""
        return "onnx" if self.precision == "fp32" else f"onnx {self.precision}"


def check_opset(opset: int, preprocessing: bool) -> None:
    """Raises RecipeError for an opset that the installed onnx cannot write or onnxruntime cannot read."""
    least, most = LEAST_WITH_PREPROCESSING if preprocessing else LEAST_OPSET, most_opset()
    if not least <= opset <= most:
        raise RecipeError(
            f"--opset {opset}: files{' with --preprocessing' if preprocessing else ''} can be written in opsets {least} to {most}",
            f"leave it out for {OPSET}, which every current runtime reads",
        )


def most_opset() -> int:
    """The newest opset that both onnx and onnxruntime support."""
    import onnx
    import onnxruntime

    from inceptionctl.stderr_capture import quiet

    known: int = onnx.defs.onnx_opset_version()
    graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    with quiet():
        for opset in range(known, OPSET, -1):
            tiny = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
            try:
                onnxruntime.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])
            except Exception:  # its exceptions have no base of their own
                continue
            return opset
    return OPSET
