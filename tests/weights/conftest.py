from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.evaluate.making import one_thread
from tests.weights.making import decoded, jpegs


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, as it runs beside a torch for CPUs."""
    import tests.with_timm.sitecustomize  # noqa: F401

    module: ModuleType = pytest.importorskip("timm", reason="timm is not installed: scripts/environment does it")
    return module


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
