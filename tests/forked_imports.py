"""What a fork server does before the first fork: import what commands would import one by one, and what they would then compile.

No thread may be needed later that was started here: a fork has none of them.
"""

import importlib
import pkgutil
import sys
import warnings
from types import ModuleType

sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))  # as train/runlog.py: not TensorFlow
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _name in (
        "deepspeed",
        "matplotlib.pyplot",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pyarrow.parquet",
        "torch._dynamo",
        "torch.onnx",
        "torch.utils.tensorboard.writer",
    ):
        importlib.import_module(_name)

    import inceptionctl

    # Programs of their own, and what needs packages that only some have.
    _OTHERS = ("__main__", "tf_process", "probe_process", "openvino_check", "timm_step", "timm_network", "peers", "smoke_tests")
    for _module in pkgutil.walk_packages(inceptionctl.__path__, "inceptionctl."):
        if not _module.name.endswith(_OTHERS):
            importlib.import_module(_module.name)

from inceptionctl.data import cpu_transforms  # noqa: E402
from inceptionctl.data.reasons import MAX_PIXELS  # noqa: E402
from inceptionctl.train import cpu_rmsprop  # noqa: E402
from pipelines.settings import PipelineSettings  # noqa: E402
from pipelines.training import training  # noqa: E402

cpu_transforms.compiled()
cpu_rmsprop.compiled(True, False)
# DALI translates the Python of a graph with conditions when it is first called.
_settings = PipelineSettings(
    batch_size=2,
    num_threads=1,
    device_id=None,
    decode="cpu",
    decode_roi=True,
    prefetch=1,
    most_pixels=MAX_PIXELS,
    exif_orientation=True,
)
for _until in ("decode", "resize"):
    training(
        lambda: (),
        _settings,
        input_px=75,
        num_candidates=2,
        resize_filters=("bilinear", "bicubic"),
        horizontal_flip=True,
        vertical_flip=True,
        colours=False,
        contrast=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        until=_until,
    )
