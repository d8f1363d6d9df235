"""A log window that a signal has cut in two goes on with any number of ranks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inceptionctl.distributed.world import World
from inceptionctl.train.batch import plan_batch
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.engine import Clipping
from inceptionctl.train.job import Window


def window(rank: int, size: int, micro: int, kept: Any) -> Window:
    job: Any = SimpleNamespace(
        world=World(rank, size, rank, size, "127.0.0.1", 1),
        batch=plan_batch(8, size, micro),
        device=torch.device("cpu"),
        progress=Progress(window=kept),
        engine=SimpleNamespace(clipping=Clipping(None)),
    )
    return Window(job)


# Three steps of two ranks with two passes each.
KEPT = {"passes": 6, "accumulation": 2, "loss_sums": [6.0, 18.0], "clipped": 2.0}


@pytest.mark.parametrize(
    ("rank", "size", "micro", "loss_sum", "passes"),
    [(0, 2, 2, 6.0, 6), (1, 2, 2, 18.0, 6), (0, 1, 2, 24.0, 12), (0, 1, 8, 6.0, 3), (3, 4, 1, 12.0, 6)],
)
def test_sums_go_on_as_they_were_or_as_their_mean(rank: int, size: int, micro: int, loss_sum: float, passes: int) -> None:
    ours = window(rank, size, micro, KEPT)
    clipping = ours._job.engine.clipping
    assert ours._job.progress.window == {}  # taken: what is kept next is another window's
    assert (float(ours._sum), ours._passes, clipping.clipped) == (loss_sum, passes, 2.0)
    ours.restart()
    assert (float(ours._sum), ours._passes, clipping.clipped) == (0.0, 0, 0.0)


def test_a_window_keeps_what_it_has_and_nothing_of_an_empty_one() -> None:
    ours = window(0, 1, 8, {})
    assert ours._passes == 0
    ours.add(torch.tensor(0.1))
    assert float(ours._sum) == torch.tensor(0.1)
