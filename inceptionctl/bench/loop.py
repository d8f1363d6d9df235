"""The real training loop (train/loop.py) in a network of a recipe, with others taking turns between its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inceptionctl.bench.measuring import Contestant, Taken, cpu_seconds, settle
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.imageset import ImageSet, Names
from inceptionctl.data.loaders import Batch
from inceptionctl.errors import ResumeLater
from inceptionctl.launch.signals import RankSignals
from inceptionctl.launch.world import World
from inceptionctl.models import build_model
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import create_run
from inceptionctl.train.batch import plan_batch
from inceptionctl.train.batch_norm import SharedStatistics
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.compiling import compile_network
from inceptionctl.train.ema import WeightAverage
from inceptionctl.train.fine_tuning import freeze
from inceptionctl.train.health import HealthWatch
from inceptionctl.train.heartbeat import Heartbeat
from inceptionctl.train.loading import loader_settings
from inceptionctl.train.loop import Training, train
from inceptionctl.train.precision import resolve_precision
from inceptionctl.train.rank import Machine, checkpoint_writer, make_engine
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.stopping import Stop

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


def make_job(
    recipe: Recipe, world: World, machine: Machine, folder: Path, signals: RankSignals, heartbeat: Heartbeat
) -> Training:
    """A training of the recipe's network, as train/rank.py makes it, in an empty `folder`; it has no images of its own."""
    batch = plan_batch(recipe.train.global_batch_size, world.size, recipe.train.micro_batch_size)
    torch.manual_seed(recipe.train.seed)
    model = build_model(**recipe.model.network()).to(machine.device)
    frozen = freeze(model, recipe.model.freeze)
    engine = make_engine(recipe, model, batch)
    statistics = SharedStatistics(engine.model, world.size, frozen)
    average = WeightAverage(engine.model, recipe.train.ema_decay)
    compile_network(engine.model, recipe.train.compile, recipe.train.compile_mode)
    run = create_run(folder, recipe)
    log = RunLog(run, start_step=0, enabled=world.rank == 0, of_a_training=False)
    # One image a class is enough to know how many there would be.
    names = Names.of(f"{label}".encode() for label in range(recipe.model.num_classes))
    classes = tuple(map(str, range(recipe.model.num_classes)))
    images = ImageSet(folder, "train", folder, classes, np.arange(len(classes), dtype=np.int32), names)
    progress = Progress(recipe=recipe.resolved())
    progress.total_steps, progress.classes = STEPS_WITHOUT_END, list(classes)
    return Training(
        recipe=recipe,
        run=run,
        world=world,
        device=machine.device,
        precision=resolve_precision(recipe.train.precision, machine.device),
        batch=batch,
        train_set=images,
        val_set=images,
        engine=engine,
        average=average,
        statistics=statistics,
        health=HealthWatch(engine.model, recipe.health, always=recipe.train.compile == "network"),
        frozen=frozen,
        progress=progress,
        log=log,
        writer=checkpoint_writer(recipe, run, log),
        loader_settings=loader_settings(recipe, machine.device, machine.num_threads),
        bad=BadImages(),
        stop=Stop(signals, world.size, statistics.votes),
        heartbeat=heartbeat,
        loader=_none_yet,
    )


def _none_yet(job: Training) -> Any:
    raise AssertionError("run_loop gives the batches")
