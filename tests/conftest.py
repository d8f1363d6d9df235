"""Fixtures that every folder of tests may use, and what tests of a GPU need."""

import os

import pytest

from inceptionctl.launch.local import visible_gpus
from tests.data.conftest import make_root, root

__all__ = ["make_root", "root"]

# pytest-xdist's workers are born with those of a terminal of 80 columns, at which consoles would cut what tests read.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


# The longest first, so that no worker is left with one of them when the others have nothing more to do.
LONG = ("tests/launch/test_slurm.py", "tests/train/test_signals.py", "tests/train/test_faults.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay together, for their fixtures' sake, and all that need Slurm, of which a machine has one.

    Those marked `gpu` skip, and say so, where there is no GPU.
    """
    for item in items:
        needs_slurm = "slurm" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("slurm" if needs_slurm else item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: next((k for k, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))
    if visible_gpus():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
