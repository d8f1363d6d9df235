"""One evaluation from its first to its last image, by one process or as one of several ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from inceptionctl.evaluate.evaluation import OnProgress, Work, answer, result_of
from inceptionctl.evaluate.parts import Parts
from inceptionctl.evaluate.results import Result
from inceptionctl.words import counted

SECONDS_BETWEEN_LOOKS = 0.5


class _Begun(TypedDict):
    goes_on: bool
    """Whether an interrupted evaluation has left something."""
    missing: list[int]


@dataclass(frozen=True)
class Ranks:
    """This process among those that share an evaluation. They meet once, before the first image, and then in a folder alone."""

    rank: int = 0
    size: int = 1
    on_rank_zero: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """Does something JSON-like on rank 0 and gives it to all."""


@dataclass(frozen=True)
class Answers:
    """What the network says of every image, in the order of the images."""

    probabilities: NDArray[np.float32]
    """[images, classes]."""
    parts: Parts
    num_answered: int
    """Images that were not answered by an evaluation that was interrupted."""
    seconds: float


@dataclass(frozen=True)
class Done:
    """What rank 0 has in the end."""

    result: Result
    probabilities: NDArray[np.float32]
    parts: Parts


def answer_all(
    work: Work, folder: Path, ranks: Ranks, *, on_progress: OnProgress, say: Callable[[str], None] = lambda text: None
) -> Answers | None:
    """Answer what `folder` does not hold yet; on rank 0 the probabilities of all images, None on the others.

    They are the same to the bit for any number of ranks and interruptions on machines of one kind: batches are the same. Raises
    DataError when an image cannot be decoded.
    """
    start = time.perf_counter()
    batches = work.batches
    parts = Parts(folder, batches)

    def begin() -> _Begun:
        return {"goes_on": parts.begin(work.identity), "missing": parts.missing()}

    begun: _Begun = ranks.on_rank_zero(begin)
    missing = begun["missing"]
    share = missing[ranks.rank * len(missing) // ranks.size : (ranks.rank + 1) * len(missing) // ranks.size]
    left = sum(len(batches[number]) for number in missing)
    if begun["goes_on"]:
        number = len(work.images)
        were = "was" if number == 1 else "were"
        say(f"resuming: {number - left:,} of {counted(number, 'image')} {were} answered before")
    answer(work, parts, share, on_progress)
    if ranks.rank != 0:
        return None
    while parts.missing():  # a rank that fails ends this one too, by the launcher
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return Answers(parts.collect(), parts, left, time.perf_counter() - start)


def run_evaluation(
    work: Work, folder: Path, ranks: Ranks, *, on_progress: OnProgress, say: Callable[[str], None] = lambda text: None
) -> Done | None:
    """`answer_all`, summed up by rank 0 alone, so that the result is as equal as the answers are."""
    answers = answer_all(work, folder, ranks, on_progress=on_progress, say=say)
    if answers is None:
        return None
    result = result_of(work, answers.probabilities, answers.num_answered, answers.seconds)
    return Done(result, answers.probabilities, answers.parts)
