"""Memory that runs out is the machine's fault: exit code 4 and what to lower, not a bug with a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import typer
from typer.testing import CliRunner

from inceptionctl.cli.group import ErrorGroup

# As torch 2.13 words it on a GPU of 80 GB.
ON_A_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.06 GiB is free."


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError(ON_A_GPU)


def of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("takes", "said"),
    [
        (on_a_gpu, "the GPU's memory is used up: CUDA out of memory. Tried to allocate 2.00 GiB."),
        (lambda: torch.empty(1 << 50), "can't allocate memory: you tried to allocate"),
        (of_python, "memory has run out: the host has no more"),
    ],
)
def test_it_is_worded(takes: Callable[[], object], said: str) -> None:
    app = typer.Typer(cls=ErrorGroup)
    app.callback()(lambda: None)
    app.command("take")(lambda: takes())
    result = CliRunner().invoke(app, ["take"])
    assert result.exit_code == 4
    assert said in result.stderr
    assert "hint: lower train.micro_batch_size" in result.stderr and "traceback" not in result.stderr
