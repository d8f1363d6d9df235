"""Ranks and scales, as `evaluate` and `predict --submission` take them from the command line."""

from __future__ import annotations

import sys

from inceptionctl.cli.options import whole_numbers
from inceptionctl.errors import RanksEndedError, RecipeError
from inceptionctl.protocols import ProtocolName


def shorter_sides(scales: str | None, protocol: ProtocolName) -> tuple[int, ...] | None:
    """The numbers of --scales, in px. Raises RecipeError."""
    if scales is None:
        return None
    if protocol == "single":
        raise RecipeError("--scales: a single crop is cut as the recipe says", "give --protocol as well, or leave --scales out")
    return tuple(whole_numbers("--scales", scales, "342,384,427,470", " of px"))


def start_ranks(gpus: int | None, cpu_ranks: int | None) -> bool:
    """Give this very command to ranks of this machine, if any are asked for, and wait for them; whether they were.

    Raises RecipeError where this process is one rank already, RanksEndedError when the ranks end with an error.
    """
    from inceptionctl.distributed.local import choose_ranks, launch
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    world = world_from_environment()
    refuse_own_ranks(world, gpus, cpu_ranks)
    if world is not None or not (gpus or cpu_ranks):
        return False
    code = launch(choose_ranks(gpus, cpu_ranks), sys.argv[1:], None)
    if code:
        raise RanksEndedError(code)
    return True
