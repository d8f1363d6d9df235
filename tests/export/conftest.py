from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inceptionctl.run import Run
from tests.evaluate.making import make_data, make_run, one_thread


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read only."""
    return make_data(tmp_path_factory.mktemp("data") / "animals")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """To read only; an evaluation may be written into it."""
    with one_thread():
        return make_run(tmp_path_factory.mktemp("runs") / "tiny", data)


@pytest.fixture(scope="package", autouse=True)
def fixed_threads() -> Iterator[None]:
    """The commands, which run in this process, would set another number."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda number: None)
        yield
