"""The real training loop (train/loop.py) in a network of a recipe, with others taking turns between its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inceptionctl.bench.figures import Contestant, Taken, cpu_seconds, settle
from inceptionctl.data.imageset import ImageSet, Names
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.errors import ResumeLater
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import create_run
from inceptionctl.train.build import build_training
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.engine import Engine
from inceptionctl.train.job import Training
from inceptionctl.train.loop import train
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.runlog import RunLog

STEPS_WITHOUT_END = 1 << 40  # neither validation nor a save falls due


class _EnoughError(Exception):
    """Every round has been measured."""


class Turns:
    """The batches of a training loop, which it gets from several sources in turn, `steps` of them at a time; between two turns others
    take theirs. The time between the loop's asking for the first batch of a turn and for the next turn's is the turn's.

    Batches that come `afterwards` are not measured here.
    """

    def __init__(
        self,
        sources: dict[str, Iterator[Batch]],
        others: Sequence[Contestant],
        *,
        passes: int,
        repeats: int,
        together: Callable[[], None],
        requested: Callable[[], str | None],
        afterwards: Iterable[Batch] = (),
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> None:
        self.taken: dict[str, list[Taken]] = {name: [] for name in (*sources, *(other.name for other in others))}
        self._sources, self._others, self._passes, self._repeats = sources, others, passes, repeats
        self._together, self._requested, self._afterwards, self._progress = together, requested, afterwards, progress

    def __iter__(self) -> Iterator[Batch]:
        names = [*self._sources]
        for number in range((self._repeats + 1) * len(names)):
            name = names[number % len(names)]
            if number % len(names) == 0:
                self._progress("rounds", number // len(names), self._repeats + 1)
                self._let_others()
            began = self._begin()
            for _ in range(self._passes):
                yield next(self._sources[name])
            self._end(name, began)
        yield from self._afterwards
        raise _EnoughError

    def _let_others(self) -> None:
        for other in self._others:
            began = self._begin()
            other.round()
            self._end(other.name, began)

    def _begin(self) -> tuple[float, float]:
        self._together()
        return time.perf_counter(), cpu_seconds()

    def _end(self, name: str, began: tuple[float, float]) -> None:
        self._together()
        seconds = time.perf_counter() - began[0]
        settle()  # what was decoded ahead has its place in the processor time
        self.taken[name].append(Taken(seconds, cpu_seconds() - began[1]))
        if self._requested():
            raise ResumeLater(f"stopped by {self._requested()}: nothing was measured", "give the same command again")

    def close(self) -> None:
        """Nothing of its own: the sources belong to whoever made them."""

    def counted(self) -> dict[str, list[Taken]]:
        """Without the first round, which made everybody warm."""
        return {name: rounds[1:] for name, rounds in self.taken.items()}


def run_loop(job: Training, turns: Turns) -> None:
    """Train until every turn has been taken."""
    job.loader = lambda _: turns
    try:
        train(job)
    except _EnoughError:
        return
    finally:
        job.log.close()


def make_job(joined: Session, recipe: Recipe, folder: Path, signals: RankSignals) -> Training:
    """A training of the recipe's network in an empty `folder`, at model.input_px throughout; it has no images of its own."""
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"progressive_resizing": None})})
    run = create_run(folder, recipe)
    # One image a class is enough to know how many there would be.
    names = Names.of(f"{label}".encode() for label in range(recipe.model.num_classes))
    classes = tuple(map(str, range(recipe.model.num_classes)))
    images = ImageSet(folder, "train", folder, classes, np.arange(len(classes), dtype=np.int32), names)

    def begin(engine: Engine, average: WeightAverage) -> Progress:
        return Progress(recipe=recipe.resolved(), total_steps=STEPS_WITHOUT_END, classes=list(classes))

    def open_log(progress: Progress) -> RunLog:
        return RunLog(run, start_step=0, enabled=joined.world.rank == 0, of_a_training=False)

    return build_training(joined, recipe, run, (images, images), signals, loader=_none_yet, open_log=open_log, restore=begin)


def _none_yet(job: Training) -> Any:
    raise AssertionError("run_loop gives the batches")
