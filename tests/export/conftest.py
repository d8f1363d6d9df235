from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inceptionctl.run import Run
from tests.evaluate.making import make_data, make_run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read only."""
    return make_data(tmp_path_factory.mktemp("data") / "animals")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """To read only; an evaluation may be written into it."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster so, and much faster on a busy machine. The commands set the number for their process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
