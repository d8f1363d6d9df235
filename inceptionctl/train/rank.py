"""One rank of a training: join the others, build everything, run the loop, leave in order."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import nn

from inceptionctl import console
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.sources.class_lists import some
from inceptionctl.data.sources.division import classes_without
from inceptionctl.distributed.heartbeat import State
from inceptionctl.distributed.milestones import passed
from inceptionctl.distributed.session import Session, session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault, InceptionctlError
from inceptionctl.models import build_model
from inceptionctl.models.summary import count_parameters
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.recipe.model_section import AUTO_CLASSES
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run, discard_unused, is_run, located, note_end
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.batch import BatchPlan, check_batch_norm, plan_batch, refuse_odd_pairs, total_steps
from inceptionctl.train.build import build_training
from inceptionctl.train.checkpoint import Progress, load_checkpoint
from inceptionctl.train.data_list import keep_list
from inceptionctl.train.dry_run import disk_needed
from inceptionctl.train.engine import Engine
from inceptionctl.train.fine_tuning import read_initial_weights, start_from
from inceptionctl.train.inheritance import WeightsSource, as_expected, find_weights, first_weights, refuse_another_function
from inceptionctl.train.job import Training, read_bad_images
from inceptionctl.train.lock import take_lock
from inceptionctl.train.loop import train, train_loader
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.preflight import Opened, faults, open_images, refuse, with_counted_classes
from inceptionctl.train.rollback import known_rollbacks
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.start import Start, check_start, decide_start, keep_start
from inceptionctl.train.startup_log import changes_in_words, farewell, greet
from inceptionctl.train.step import resolve_precision
from inceptionctl.train.torch_compile import check_compiler, compile_errors
from inceptionctl.train.trackers import services


def run_rank(world: World, recipe: Recipe, output: Path | None, resume: str, signals: RankSignals) -> Run:
    """Train as one rank of `world`; the run that was trained. Errors of rank 0's preparations end all ranks with the same exit code.

    Raises ResumeLater when a signal has stopped the training.
    """
    with session(world, recipe.train.collective_timeout_seconds, ends_with=signals.ends_with) as joined:
        passed("joined")
        joined.heartbeat.enter(State.STARTS)
        recipe = _counted(joined, recipe, output, resume)
        start = _shared_start(joined, recipe, output, resume)
        if not start.finished:
            _train(joined, recipe, start, signals)
        elif world.rank == 0:
            console.say(f"{start.run.path} is finished: nothing to train")
    return start.run


def _counted(joined: Session, recipe: Recipe, output: Path | None, resume: str) -> Recipe:
    """With the number of classes that rank 0 finds in the data, where the recipe says `auto`."""
    if recipe.model.num_classes != AUTO_CLASSES:
        return recipe
    begun = next((Run(path) for path in (output, Path(resume)) if path and is_run(path)), None)
    with joined.heartbeat.during(State.LISTS_DATA):
        number = joined.on_rank_zero(lambda: with_counted_classes(located(recipe, begun)).model.num_classes)
    return recipe.with_classes(number)


def _shared_start(joined: Session, recipe: Recipe, output: Path | None, resume: str) -> Start:
    def decide() -> console.JsonObject:
        start = decide_start(recipe, output, resume)
        return {
            "run": str(start.run.path),
            "checkpoint": str(start.checkpoint) if start.checkpoint else None,
            "finished": start.finished,
            "remarks": list(start.remarks),
            "recipe_before": start.recipe_before.resolved() if start.recipe_before else None,
        }

    answer = joined.on_rank_zero(decide)
    checkpoint = Path(answer["checkpoint"]) if answer["checkpoint"] else None
    before = answer["recipe_before"] and recipe_from_dict(answer["recipe_before"], "of the last start")
    return Start(Run(Path(answer["run"])), checkpoint, answer["finished"], tuple(answer["remarks"]), before or None)


def _train(joined: Session, recipe: Recipe, start: Start, signals: RankSignals) -> None:
    locks: list[IO[str]] = []
    try:
        try:
            job, start = _prepared(joined, recipe, start, signals, locks)
        except InceptionctlError:
            if locks:  # else the corrected recipe would be another one than the directory's
                discard_unused(start.run)
            raise
        with _end_noted(job):
            signals.training_begins()
            try:
                greet(job, start)
                passed("trains")
                with compile_errors(recipe.train.compile):
                    train(job)
                job.log.say(farewell(job))
                job.log.close(finished=True)
            finally:
                job.log.close()
    finally:
        for lock in locks:
            lock.truncate(0)  # a name that is left in it tells of a death
            lock.close()


@contextlib.contextmanager
def _end_noted(job: Training) -> Iterator[None]:
    """Keep how a start ended, for `inceptionctl runs`: rank 0 in environment.json."""
    code, message = 0, ""
    try:
        yield
    except InceptionctlError as error:
        code, message = error.exit_code, error.message
        raise
    except BaseException as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        raise
    finally:
        if job.world.rank == 0:
            note_end(job.run, code, message)


def _prepared(
    joined: Session, recipe: Recipe, start: Start, signals: RankSignals, locks: list[IO[str]]
) -> tuple[Training, Start]:
    """Everything that the loop works on. The run directory is changed last, when no rank has anything against the start."""
    opened: list[Opened] = []
    remarks = joined.on_rank_zero(lambda: _check_on_rank_zero(joined, recipe, start, locks, opened))
    first = joined.on_rank_zero(lambda: _first_weights(recipe, start))
    with joined.heartbeat.during(State.LISTS_DATA):
        images = opened[0] if opened else open_images(located(recipe, start.run))
    if joined.world.rank:  # rank 0's are compared; another machine may have others
        check_start(start, recipe, *images)
    passed("listed")
    batch = plan_batch(recipe.train.global_batch_size, joined.world.size, recipe.train.micro_batch_size)
    joined.on_rank_zero(lambda: check_batch_norm(recipe, batch))
    joined.on_rank_zero(lambda: refuse_odd_pairs(recipe, batch))
    known = joined.on_rank_zero(lambda: read_bad_images(start.run))

    def prepare(model: nn.Module) -> None:
        if first:
            source = WeightsSource(**{**first, "file": Path(first["file"])})
            remarks.extend(_take_initial_weights(recipe, model, source))

    def restore(engine: Engine, average: WeightAverage) -> Progress:
        passed("built")
        progress = _restored(joined, start, engine, average)
        _complete(progress, joined, recipe, batch, images[0])
        progress.rollbacks = joined.on_rank_zero(lambda: known_rollbacks(start.run, progress, recipe))
        return progress

    def open_log(progress: Progress) -> RunLog:
        nonlocal start
        remarks.extend(changes_in_words(start, recipe, progress.step, len(images[0]) / batch.global_batch_size))
        start = dataclasses.replace(start, remarks=(*start.remarks, *remarks))
        joined.meet_all()
        joined.on_rank_zero(lambda: _keep(start, recipe, images))
        return RunLog(
            start.run,
            start_step=progress.step,
            enabled=joined.world.rank == 0,
            evaluation_due=progress.evaluation_due,
            continue_on_error=recipe.checkpoint.on_write_error == "continue",
            services=services(recipe, start.run),
        )

    job = build_training(
        joined, recipe, start.run, images, signals, loader=train_loader, open_log=open_log, prepare=prepare, restore=restore
    )
    job.bad.add((name, reason) for name, reason in known)
    return job, start


def _restored(joined: Session, start: Start, engine: Engine, average: WeightAverage) -> Progress:
    if not start.checkpoint:
        return Progress()
    joined.heartbeat.enter(State.STARTS)
    return load_checkpoint(start.checkpoint, engine.model, average, engine.state)


def _complete(progress: Progress, joined: Session, recipe: Recipe, batch: BatchPlan, train_set: ImageSet) -> None:
    """What this start says of itself, whatever the checkpoint says."""
    progress.total_steps = total_steps(recipe.train.epochs, len(train_set), batch.global_batch_size, recipe.train.max_steps)
    progress.stopped_early = ""  # else it would not be resumed
    progress.classes, progress.recipe = list(train_set.classes), recipe.resolved()
    progress.num_train_images, progress.ranks = len(train_set), joined.world.size
    progress.precision = resolve_precision(recipe.train.precision, joined.device)


def _keep(start: Start, recipe: Recipe, images: tuple[ImageSet, ImageSet]) -> None:
    keep_start(start, recipe)
    keep_list(start.run, *images, recipe.evaluate.subset)


def _first_weights(recipe: Recipe, start: Start) -> console.JsonObject:
    """What a new run starts from, verified once for all ranks: a run that is still training may name another best one meanwhile."""
    path = first_weights(recipe)
    if path is None or start.checkpoint:
        return {}
    source = find_weights(path)
    return {**dataclasses.asdict(source), "file": str(source.file)}


def _take_initial_weights(recipe: Recipe, model: nn.Module, source: WeightsSource) -> list[str]:
    """What was taken into the network before its first step, in words."""
    initial = read_initial_weights(source)
    taken = start_from(initial, model, recipe.model)
    refuse_another_function(recipe, initial.expects, initial.source)
    return [taken, *as_expected(recipe, initial.expects)]


def _check_on_rank_zero(joined: Session, recipe: Recipe, start: Start, locks: list[IO[str]], opened: list[Opened]) -> list[str]:
    """Remarks on the start; the run's lock and its images are added to `locks` and `opened`."""
    lock, remarks = take_lock(start.run)
    locks.append(lock)
    files.clear_leftovers(start.run.checkpoints)
    if start.checkpoint and start.checkpoint.parent == start.run.checkpoints:
        files.mend_pointers(start.run.checkpoints, start.checkpoint)
    check_compiler(recipe.train.compile, joined.device)
    # On shapes alone: whatever does not fit is then said once, before every rank has built its network.
    with joined.heartbeat.during(State.LISTS_DATA):
        found, images = faults(located(recipe, start.run), begins=start.checkpoint is None, verified=False)
    refuse(recipe.model.name, found)
    assert images is not None
    opened.append(images)
    remarks += check_start(start, recipe, *images)
    if lacking := classes_without(images[1]):
        verb = "has" if len(lacking) == 1 else "have"
        remarks.append(
            f"warning: {some(lacking)} {verb} no validation images: errors say nothing of {'it' if verb == 'has' else 'them'}"
        )
    with torch.device("meta"):
        model = build_model(**recipe.model.network())
    check_disk(recipe, start.run.path, model)
    return remarks


def check_disk(recipe: Recipe, path: Path, model: nn.Module) -> None:
    """Raise EnvironmentFault when the checkpoints of a run will not fit beside what is on the disk."""
    needed = disk_needed(count_parameters(model), recipe)
    present = sum(file.stat().st_size for file in (path / "checkpoints").rglob("*") if file.is_file())
    free = shutil.disk_usage(path).free
    if needed - present > free:
        raise EnvironmentFault(
            f"the checkpoints of this run need up to {needed / 1e9:.2f} GB, but {path} has {free / 1e9:.2f} GB free",
            "free some space, choose another --output, or lower checkpoint.keep_last",
        )
