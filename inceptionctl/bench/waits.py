"""How often the host waits for a GPU in a step of the training loop, and where: what torch.cuda's sync debug mode warns of."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypedDict

import torch

from inceptionctl.data.loaders import Batch

STEPS = 5
_TORCH = str(Path(torch.__file__).parent)
_MESSAGE = "synchronizing CUDA operation"
_MAX_PLACES = 8


class Waits(TypedDict, total=False):
    """What `counted_waits` finds out; nothing before."""

    steps: int
    per_step: float
    places: dict[str, float]
    """Waits in a step by where in the code, most first."""


@contextmanager
def host_waits() -> Iterator[Counter[str]]:
    """Count by the place in the code, innermost first. What torch does not warn of (events, NCCL, DALI's own) is not in it.

    Whole synchronisations of the device, of which the debug mode says nothing, are counted by standing in for torch.cuda.synchronize.
    """
    found: Counter[str] = Counter()
    synchronize = torch.cuda.synchronize

    def waiting(*arguments: Any, **options: Any) -> None:
        found[f"torch.cuda.synchronize at {_place()}"] += 1
        synchronize(*arguments, **options)

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def told(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if _MESSAGE in str(message):
                found[_place()] += 1
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.filterwarnings("always", message=f".*{_MESSAGE}")
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        warnings.showwarning = told
        torch.cuda.synchronize = waiting
        on_gpu = torch.cuda.is_available()
        before = torch.cuda.get_sync_debug_mode() if on_gpu else 0
        try:
            if on_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            yield found
        finally:
            torch.cuda.synchronize = synchronize
            if on_gpu:
                torch.cuda.set_sync_debug_mode(before)


def counted_waits(source: Iterator[Batch], together: Callable[[], None], found: Waits) -> Iterator[Batch]:
    """Batches for STEPS steps of the loop; `found` then has how often the host waited in each of them, and where most."""
    together()
    with host_waits() as places:
        for _ in range(STEPS):
            yield next(source)
    found["steps"] = STEPS
    found["per_step"] = places.total() / STEPS
    found["places"] = {place: count / STEPS for place, count in places.most_common(_MAX_PLACES)}


def _place() -> str:
    """The two innermost lines outside of torch, of Python's warnings and of this file."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if not frame.filename.startswith(_TORCH) and Path(frame.filename).name not in ("warnings.py", Path(__file__).name)
    ]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-2:]))
