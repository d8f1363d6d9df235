"""ONNX networks in fewer bits: half precision, and 8-bit integers by ranges seen on real images. Both by onnxruntime's own tools."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import DataError
from inceptionctl.evaluate.images import load_set
from inceptionctl.evaluate.trained import Trained
from inceptionctl.train.inputs import preparation_of

CALIBRATION_BATCH = 8

Batches = Callable[[], Iterator[Tensor]]


def to_fp16(network: Any) -> Any:
    """Weights and arithmetic in float16; `images` and `logits` stay float32, so that nobody who feeds it has to change."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(_copy(network), keep_io_types=True))
    half.topological_sort()  # the casts of the inputs are appended
    return half.model


def to_int8(network: Any, images: Batches) -> Any:
    """Signed weights of 7 bits with a scale for each output channel, unsigned activations of 8 with one for each tensor, in QDQ form.

    Activations get the range that they have over `images` (float32 [N, 3, px, px], normalised): the least and the greatest value.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """onnxruntime asks one for batches until it gives None."""

        def __init__(self) -> None:
            self._batches = images()

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory() as folder:  # it writes files alone
        file = Path(folder) / "int8.onnx"
        quantize_static(
            _copy(network),
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


def _copy(network: Any) -> Any:
    """Both tools change what they are given."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    return copy


def calibration_images(trained: Trained, data_root: Path, count: int, num_threads: int) -> Batches:
    """Up to `count` images of the training split, evenly spaced; the same at every call.

    Prepared as for evaluation. Raises DataError where there are none.
    """
    try:
        split = open_split(data_root, "train", **trained.recipe.data.sources(data_root))
    except DataError as error:
        raise DataError(
            f"--precision int8 is calibrated on images of the training split: {error.message}",
            "name the folder with train/ and val/ by --data ROOT",
        ) from None
    picked = split.spread(count)
    preparation = preparation_of(trained.recipe)

    def batches() -> Iterator[Tensor]:
        return load_set(picked, preparation, batch_size=min(CALIBRATION_BATCH, len(picked)), num_threads=num_threads)

    return batches
