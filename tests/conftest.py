"""Fixtures that every folder of tests may use, and what tests of a GPU need."""

import pytest

from inceptionctl.launch.local import visible_gpus
from tests.data.conftest import make_root, root

__all__ = ["make_root", "root"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, and say so, where there is no GPU."""
    if visible_gpus():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
