"""Fixtures that every folder of tests may use."""

from tests.data.conftest import make_root, root

__all__ = ["make_root", "root"]
