"""Fixtures that every folder of tests may use, and what tests of a GPU need."""

import os

import pytest

from inceptionctl.distributed.local import visible_gpus
from tests.data.conftest import make_root, photographs, root

__all__ = ["make_root", "photographs", "root"]

# pytest-xdist's workers are born with those of a terminal of 80 columns, at which consoles would cut what tests read.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


# The longest first, so that no worker is left with one of them when the others have nothing more to do.
LONG = tuple(
    f"tests/{name}.py"
    for name in (
        "distributed/test_slurm",
        "train/test_signals",
        "train/test_rollback",
        "train/test_zero",
        "train/test_hanging",
        "train/test_faults",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, and say so, where there is no GPU."""
    items.sort(key=lambda item: next((k for k, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))
    if visible_gpus():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
