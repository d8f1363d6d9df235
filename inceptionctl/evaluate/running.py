"""One evaluation from its first to its last image, by one process or as one of several ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.evaluate.evaluation import OnProgress, Work, answer, result_of
from inceptionctl.evaluate.parts import Parts

SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Ranks:
    """This process among those that share an evaluation. They meet once, before the first image, and then in a folder alone."""

    rank: int = 0
    size: int = 1
    on_rank_zero: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """Does something JSON-like on rank 0 and gives it to all."""


@dataclass(frozen=True)
class Done:
    """What rank 0 has in the end."""

    result: dict[str, Any]
    probabilities: NDArray[np.float32]
    parts: Parts


def run_evaluation(
    work: Work, folder: Path, ranks: Ranks, *, on_progress: OnProgress, say: Callable[[str], None] = lambda text: None
) -> Done | None:
    """Answer what `folder` does not hold yet, and sum up on rank 0; None on the others.

    The bits of the result are the same for any number of ranks and interruptions on machines of one kind: batches are the same, and
    the sums are made by one process. Raises DataError when an image cannot be decoded.
    """
    start = time.perf_counter()
    batches = work.batches
    parts = Parts(folder, batches)

    def begin() -> dict[str, Any]:
        return {"goes_on": parts.begin(work.identity), "missing": parts.missing()}

    begun = ranks.on_rank_zero(begin)
    missing: list[int] = begun["missing"]
    share = missing[ranks.rank * len(missing) // ranks.size : (ranks.rank + 1) * len(missing) // ranks.size]
    left = sum(len(batches[number]) for number in missing)
    if begun["goes_on"]:
        say(f"goes on: {len(work.images) - left} of {len(work.images)} images were answered before")
    answer(work, parts, share, on_progress)
    if ranks.rank != 0:
        return None
    while parts.missing():  # a rank that fails ends this one too, by the launcher
        time.sleep(SECONDS_BETWEEN_LOOKS)
    probabilities = parts.collect()
    return Done(result_of(work, probabilities, left, time.perf_counter() - start), probabilities, parts)
