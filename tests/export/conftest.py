"""The same data, run and threads as the tests of evaluation."""

from tests.evaluate.conftest import data, fixed_threads, run

__all__ = ["data", "fixed_threads", "run"]
