from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.evaluate.making import one_thread
from tests.weights.making import decoded, jpegs

# Before timm is imported by whoever runs first: torchvision looks for two operators that its wheel has for CUDA builds alone.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, as it runs beside a torch for CPUs."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return jpegs(tmp_path_factory.mktemp("jpegs"), 12)


@pytest.fixture(scope="session")
def images(photographs: list[Path]) -> torch.Tensor:
    """float32 [12, 3, 107, 107]."""
    return decoded(photographs)


@pytest.fixture(scope="package", autouse=True)
def fixed_threads() -> Iterator[None]:
    """The commands, which run in this process, would set another number."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda number: None)
        yield
