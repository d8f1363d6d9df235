"""ONNX networks in fewer bits, by onnxruntime's tools: fp16, and static int8 quantization calibrated on real images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from inceptionctl.evaluate.inputs import load_images
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.comparison import open_images
from inceptionctl.train.inputs import preparation_of

CALIBRATION_BATCH = 8

Batches = Callable[[], Iterator[Tensor]]


def to_fp16(network: Any) -> Any:
    """Weights and arithmetic in float16; `images` and `logits` stay float32, so callers need not change. Changes `network`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(network, keep_io_types=True))
    half.topological_sort()  # the casts of the inputs are appended
    return half.model


def to_int8(network: Any, images: Batches) -> Any:
    """Signed weights of 7 bits with a scale for each output channel, unsigned activations of 8 with one for each tensor, in QDQ form.

    Activations get the range that they have over `images` (float32 [N, 3, px, px], normalised): the least and the greatest value.
    Changes `network`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives onnxruntime batches, then None."""

        def __init__(self) -> None:
            self._batches = images()

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory() as folder:  # it only writes files
        file = Path(folder) / "int8.onnx"
        quantize_static(
            network,
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # After a ReLU their zero is 0 then. With another one OpenVINO pads convolutions by the wrong value (docs/LOG.md).
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Without VNNI the sum of two products saturates at 16 bits, and 2 * 255 * 64 is the most that fits (docs/LOG.md).
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(file)


def calibration_images(trained: Trained, data_root: Path, count: int, num_threads: int) -> Batches:
    """Up to `count` images of the training split, evenly spaced; the same at every call.

    With the preprocessing of an evaluation. Raises DataError if there are none.
    """
    split = open_images(trained, data_root, "train", "--precision int8 is calibrated on images of the training split")
    picked = split.spread(count)
    preparation = preparation_of(trained.recipe)

    def batches() -> Iterator[Tensor]:
        return load_images(picked, preparation, batch_size=min(CALIBRATION_BATCH, len(picked)), num_threads=num_threads)

    return batches
