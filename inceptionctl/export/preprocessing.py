"""A recipe's evaluation preprocessing as ONNX operators in front of a network: decoded pictures in, the network's input out."""

from __future__ import annotations

import math
from typing import Any

from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import RecipeError

# Filters of DALI -> what makes ONNX's Resize compute the same: pixel centres lie at halves in both, and the cubic is Keys'. Values
# rounded to 8 bits, as DALI gives them, differ by one of 255 in 1 of 200, by the cubic 1 of 50 (docs/LOG.md). `nearest` differs more: ties.
RESIZE = {
    "bilinear": 'mode = "linear"',
    "bicubic": 'mode = "cubic", cubic_coeff_a = -0.5',
}
PIXELS = "N x height x width x 3, uint8, RGB"

_BEGIN = """
<ir_version: 10, opset_import: ["": {opset}]>
preparation (uint8[batch, height, width, 3] pixels) => (float[batch, 3, {px}, {px}] images)
<
    {constants}, int64[2] axes = {{2, 3}}, int64[2] input = {{{px}, {px}}}, float lowest = {{0.0}}, float highest = {{255.0}},
    float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}
>
{{
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    values = Cast <to = 1> (planes)
    outer = Shape <start = 0, end = 2> (values)
    sides = Shape <start = 2> (values)
"""
# The middle of each side, its margins rounded down, squashed to the square.
_SQUASHED = """
    real_sides = Cast <to = 1> (sides)
    real_margin = Mul (real_sides, margin_share)
    whole_margin = Floor (real_margin)
    start = Cast <to = 7> (whole_margin)
    end = Sub (sides, start)
    middle = Slice (values, start, end, axes)
    size = Concat <axis = 0> (outer, input)
    resized = Resize <coordinate_transformation_mode = "half_pixel", antialias = {antialias}, {filter}> (middle, , , size)
    square = Identity (resized)
"""
# The shorter side to shorter_px, the longer one rounded down, and the middle square of that, margins rounded half to even.
_KEPT = """
    shorter = ReduceMin <keepdims = 0> (sides)
    enlarged = Mul (sides, shorter_px)
    resized_sides = Div (enlarged, shorter)
    size = Concat <axis = 0> (outer, resized_sides)
    resized = Resize <coordinate_transformation_mode = "half_pixel", antialias = {antialias}, {filter}> (values, , , size)
    room = Sub (resized_sides, input)
    half = Div (room, two)
    odd = Mod (room, two)
    half_is_odd = Mod (half, two)
    rounding = Mul (odd, half_is_odd)
    start = Add (half, rounding)
    end = Add (start, input)
    square = Slice (resized, start, end, axes)
"""
_END = """
    whole = Round (square)
    within = Clip (whole, lowest, highest)
    shifted = Sub (within, mean)
    images = Div (shifted, std)
}}
"""


def preparation_graph(preparation: Preparation, opset: int) -> Any:
    """An onnx.ModelProto: `pixels` uint8 [batch, height, width, 3], RGB -> `images` float32 [batch, 3, px, px], normalised.

    Any height and width, the same in a batch. Raises RecipeError for a filter that ONNX's Resize lacks.
    """
    import onnx

    if preparation.interpolation not in RESIZE:
        raise RecipeError(
            f"ONNX has no resize filter like evaluate.interpolation {preparation.interpolation}",
            f"export without --preprocessing; with it there are {', '.join(RESIZE)}",
        )
    shorter_px = math.floor(preparation.input_px / preparation.central_fraction)
    text = _BEGIN + (_KEPT if preparation.keep_aspect else _SQUASHED) + _END
    return onnx.parser.parse_model(
        text.format(
            opset=opset,
            px=preparation.input_px,
            constants=f"int64 two = {{2}}, int64 shorter_px = {{{shorter_px}}}"
            if preparation.keep_aspect
            else f"float margin_share = {{{(1.0 - preparation.central_fraction) / 2.0!r}}}",
            antialias=int(preparation.antialias),
            filter=RESIZE[preparation.interpolation],
            mean=", ".join(repr(255.0 * value) for value in preparation.mean),
            std=", ".join(repr(255.0 * value) for value in preparation.std),
        )
    )


def put_in_front(network: Any, preparation: Preparation) -> Any:
    """The network behind the preprocessing, a softmax behind it: `pixels` -> `probabilities` float32 [batch, classes].

    `network` is an onnx.ModelProto of opset 18 or later with `images` and `logits`; it is not changed. Raises RecipeError.
    """
    import onnx

    opset = next(item.version for item in network.opset_import if item.domain == "")
    graph = preparation_graph(preparation, opset)
    graph.ir_version = network.ir_version
    for item in network.opset_import:
        if item.domain:
            graph.opset_import.append(item)
    graph = onnx.compose.add_prefix(graph, "preparation.", rename_inputs=False, rename_outputs=False)
    whole = onnx.compose.merge_models(graph, network, io_map=[("images", "images")], name=network.graph.name)
    (logits,) = whole.graph.output
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    whole.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1))
    del whole.graph.output[:]
    whole.graph.output.append(onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", classes]))
    return whole
