"""One rank of a training: join the others, build everything, run the loop, leave in order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from inceptionctl import console
from inceptionctl.cores import usable_cores
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.errors import DataError, EnvironmentFault, InceptionctlError, ResumeLater
from inceptionctl.launch.local import NO_GPU_IN_SPITE_OF_DRIVER, has_driver
from inceptionctl.launch.milestones import passed
from inceptionctl.launch.signals import RankSignals
from inceptionctl.launch.world import World
from inceptionctl.models import build_model
from inceptionctl.models.summary import count_parameters
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run, discard_unused, located, note_end
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train import engine as distributed
from inceptionctl.train.bad_images import read_bad_images
from inceptionctl.train.batch import BatchPlan, plan_batch, total_steps
from inceptionctl.train.batch_norm import SharedStatistics, check_batch_norm
from inceptionctl.train.checking import faults, first_weights, refuse
from inceptionctl.train.checkpoint import Progress, load_checkpoint
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.clipping import build_clipping
from inceptionctl.train.compiling import check_compiler, compile_errors, compile_network
from inceptionctl.train.data_list import keep_list
from inceptionctl.train.ema import WeightAverage
from inceptionctl.train.fine_tuning import freeze, read_initial_weights, start_from
from inceptionctl.train.greeting import changes_in_words, farewell, greet
from inceptionctl.train.health import HealthWatch
from inceptionctl.train.heartbeat import Heartbeat
from inceptionctl.train.images import open_images
from inceptionctl.train.inheritance import as_expected, refuse_another_function
from inceptionctl.train.loading import loader_settings
from inceptionctl.train.lock import take_lock
from inceptionctl.train.loop import Training, train, train_loader
from inceptionctl.train.optim import build_optimizer
from inceptionctl.train.plan import disk_needed
from inceptionctl.train.precision import allow_tf32, resolve_precision
from inceptionctl.train.rollback import known_rollbacks
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.start import Start, check_start, decide_start, keep_start
from inceptionctl.train.stopping import Stop
from inceptionctl.words import counted

SECONDS_FOR_THE_FIRST_FAILURE = 4.0


@dataclass(frozen=True)
class Machine:
    """This rank's share of its machine."""

    device: torch.device
    num_threads: int


def run_rank(world: World, recipe: Recipe, output: Path | None, resume: str, signals: RankSignals) -> Run:
    """Train as one rank of `world`; the run that was trained. Errors of rank 0's preparations end all ranks with the same exit code.

    Raises ResumeLater when a signal has stopped the training.
    """
    machine = claim_machine(world)
    seconds = recipe.train.collective_timeout_seconds
    heartbeat = Heartbeat(world, seconds)
    distributed.connect(world, machine.device, seconds, heartbeat.join)
    passed("joined")
    heartbeat.goes_on("starts")
    try:
        with distributed.collective_errors(world, heartbeat):
            start = _shared_start(world, machine.device, recipe, output, resume)
            if not start.finished:
                _train(world, machine, recipe, start, signals, heartbeat)
            elif world.rank == 0:
                console.say(f"{start.run.path} is finished: nothing to train")
    except ResumeLater as stopped:
        signals.ends_with(stopped.exit_code)
        distributed.disconnect()
        raise
    except (distributed.RelayedError, distributed.LostRankError) as error:
        signals.ends_with(error.exit_code)
        # The rank that failed first gives the job its message and exit code: the launcher looks once a second, in no order.
        time.sleep(SECONDS_FOR_THE_FIRST_FAILURE)
        raise
    finally:
        heartbeat.end()
    distributed.disconnect()
    return start.run


def claim_machine(world: World) -> Machine:
    """Take this rank's GPU, or its share of the CPU. Raises EnvironmentFault when there are more local ranks than GPUs."""
    cores = _cores_of_this_rank(world)
    # Of a rank on a GPU too: each would start as many threads as the machine has cores.
    torch.set_num_threads(_wished_threads() or cores)
    # The command that starts ranks on the CPU says so: on a machine with GPUs DeepSpeed's launcher would show them to us.
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return Machine(torch.device("cpu"), cores)
    if not torch.cuda.is_available():
        if world.rank == 0 and has_driver():
            console.warn(NO_GPU_IN_SPITE_OF_DRIVER, "`inceptionctl doctor` says why; under srun ask for GPUs (--gpus-per-node)")
        return Machine(torch.device("cpu"), cores)
    # srun --gpus-per-task shows each rank one GPU, which is number 0 for it whatever its local rank.
    index = 0 if torch.cuda.device_count() == 1 else world.local_rank
    if index >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"local rank {world.local_rank} has no GPU: {torch.cuda.device_count()} visible",
            "start one rank a GPU, or set CUDA_VISIBLE_DEVICES",
        )
    torch.cuda.set_device(index)
    return Machine(torch.device("cuda", index), cores)


def _wished_threads() -> int | None:
    """OMP_NUM_THREADS, which the user or a launcher has set; on a machine shared with other jobs fewer threads can be faster."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdigit() and int(wish) > 0 else None


def _cores_of_this_rank(world: World) -> int:
    bound_by_slurm = "SLURM_PROCID" in os.environ and usable_cores() < (os.cpu_count() or 1)
    # srun has given this task cores of its own; otherwise the ranks of a machine share what all of them see.
    return usable_cores() if bound_by_slurm else max(1, usable_cores() // world.local_size)


def _shared_start(world: World, device: torch.device, recipe: Recipe, output: Path | None, resume: str) -> Start:
    def decide() -> dict[str, Any]:
        start = decide_start(recipe, output, resume)
        return {
            "run": str(start.run.path),
            "checkpoint": str(start.checkpoint) if start.checkpoint else None,
            "finished": start.finished,
            "remarks": list(start.remarks),
            "recipe_before": start.recipe_before.resolved() if start.recipe_before else None,
        }

    answer = distributed.on_rank_zero(world, device, decide)
    checkpoint = Path(answer["checkpoint"]) if answer["checkpoint"] else None
    before = answer["recipe_before"] and recipe_from_dict(answer["recipe_before"], "of the last start")
    return Start(Run(Path(answer["run"])), checkpoint, answer["finished"], tuple(answer["remarks"]), before or None)


def _train(world: World, machine: Machine, recipe: Recipe, start: Start, signals: RankSignals, heartbeat: Heartbeat) -> None:
    locks: list[IO[str]] = []
    try:
        try:
            job, start = _prepared(world, machine, recipe, start, signals, heartbeat, locks)
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
    world: World,
    machine: Machine,
    recipe: Recipe,
    start: Start,
    signals: RankSignals,
    heartbeat: Heartbeat,
    locks: list[IO[str]],
) -> tuple[Training, Start]:
    """Everything that the loop works on. The run directory is changed last, when no rank has anything against the start."""
    remarks = distributed.on_rank_zero(world, machine.device, lambda: _check_on_rank_zero(recipe, start, locks, machine.device))
    start = dataclasses.replace(start, remarks=(*start.remarks, *remarks))
    with heartbeat.doing("lists the data"):
        train_set, val_set = open_images(located(recipe, start.run))
    passed("listed")
    batch = plan_batch(recipe.train.global_batch_size, world.size, recipe.train.micro_batch_size)
    distributed.on_rank_zero(world, machine.device, lambda: check_batch_norm(recipe, batch))
    _seed_everything(recipe.train.seed)
    model = build_model(**recipe.model.network())
    start = _with_initial_weights(recipe, start, model)
    model.to(machine.device)
    frozen = freeze(model, recipe.model.freeze)
    engine = make_engine(recipe, model, batch)
    passed("built")
    statistics = SharedStatistics(engine.model, world.size, frozen)
    average = WeightAverage(engine.model, recipe.train.ema_decay)
    compile_network(engine.model, recipe.train.compile, recipe.train.compile_mode)
    progress = Progress()
    if start.checkpoint:
        heartbeat.goes_on("starts")
        progress = load_checkpoint(start.checkpoint, engine.model, average, engine.state)
        check_same_data(progress, train_set, start.checkpoint)
    progress.rollbacks = distributed.on_rank_zero(world, machine.device, lambda: known_rollbacks(start.run, progress, recipe))
    progress.total_steps = total_steps(recipe.train.epochs, len(train_set), batch.global_batch_size, recipe.train.max_steps)
    progress.classes, progress.recipe = list(train_set.classes), recipe.resolved()
    progress.num_train_images, progress.ranks = len(train_set), world.size
    progress.precision = resolve_precision(recipe.train.precision, machine.device)
    bad = BadImages(recipe.data.max_bad_images)
    known = distributed.on_rank_zero(world, machine.device, lambda: read_bad_images(start.run))
    bad.add((name, reason) for name, reason in known)
    changes = changes_in_words(start, recipe, progress.step, len(train_set) / batch.global_batch_size)
    start = dataclasses.replace(start, remarks=(*start.remarks, *changes))
    distributed.meet_all(world, machine.device)

    def keep() -> None:
        keep_start(start, recipe)
        keep_list(start.run, train_set, val_set, recipe.evaluate.subset)

    distributed.on_rank_zero(world, machine.device, keep)
    log = RunLog(
        start.run,
        start_step=progress.step,
        enabled=world.rank == 0,
        evaluation_due=progress.evaluation_due,
        goes_on=recipe.checkpoint.on_write_error == "continue",
    )
    job = Training(
        recipe=recipe,
        run=start.run,
        world=world,
        device=machine.device,
        precision=resolve_precision(recipe.train.precision, machine.device),
        batch=batch,
        train_set=train_set,
        val_set=val_set,
        engine=engine,
        average=average,
        statistics=statistics,
        health=HealthWatch(engine.model, recipe.health, always=recipe.train.compile == "network"),
        frozen=frozen,
        progress=progress,
        log=log,
        writer=checkpoint_writer(recipe, start.run, log),
        loader_settings=loader_settings(recipe, machine.device, machine.num_threads),
        bad=bad,
        stop=Stop(signals, world.size, statistics.votes),
        heartbeat=heartbeat,
        loader=train_loader,
    )
    return job, start


def make_engine(recipe: Recipe, model: nn.Module, batch: BatchPlan) -> distributed.Engine:
    """The engine and the optimizer of a recipe around a network on its device, whose frozen weights are frozen already."""
    torch.backends.cudnn.benchmark = recipe.train.cudnn_benchmark
    allow_tf32(recipe.train.tf32)
    return distributed.Engine(
        model,
        build_optimizer(model, recipe.optim, recipe.schedule.base_lr),
        distributed.deepspeed_config(batch, recipe.train.zero_stage),
        clipping=build_clipping(recipe.optim),
        channels_last=recipe.train.channels_last,
    )


def checkpoint_writer(recipe: Recipe, run: Run, log: RunLog) -> CheckpointWriter:
    """What saves and prunes as a recipe says."""
    wishes = recipe.checkpoint
    return CheckpointWriter(
        run.checkpoints,
        keep_last=wishes.keep_last,
        keep_best=wishes.keep_best,
        say=log.say,
        goes_on=wishes.on_write_error == "continue",
    )


def check_same_data(progress: Progress, train_set: ImageSet, checkpoint: Path) -> None:
    """Raise DataError when a run would go on with other classes or another number of images: its order of samples would change."""
    classes = [(old, new) for old, new in zip(progress.classes, train_set.classes, strict=False) if old != new]
    if classes:
        old, new = classes[0]
        raise DataError(
            f"{checkpoint} was trained on other classes: {old!r} there, {new!r} in {train_set.folder}",
            "set data.root to the run's own data",
        )
    if progress.num_train_images != len(train_set):
        raise DataError(
            f"{checkpoint} was trained on {counted(progress.num_train_images, 'image')}, {train_set.folder} has {len(train_set)}",
            "go on with the same images, or start a new run with --resume never",
        )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _with_initial_weights(recipe: Recipe, start: Start, model: nn.Module) -> Start:
    source = first_weights(recipe)
    if source is None or start.checkpoint:
        return start
    initial = read_initial_weights(source)
    taken = start_from(initial, model, recipe.model)
    refuse_another_function(recipe, initial.expects, initial.source)
    return dataclasses.replace(start, remarks=(*start.remarks, taken, *as_expected(recipe, initial.expects)))


def _check_on_rank_zero(recipe: Recipe, start: Start, locks: list[IO[str]], device: torch.device) -> list[str]:
    lock, remarks = take_lock(start.run)
    locks.append(lock)
    files.clear_leftovers(start.run.checkpoints)
    if start.checkpoint and start.checkpoint.parent == start.run.checkpoints:
        files.mend_pointers(start.run.checkpoints, start.checkpoint)
    check_compiler(recipe.train.compile, device)
    return [*remarks, *_check(recipe, start)]


def _check(recipe: Recipe, start: Start) -> list[str]:
    here, opened = located(recipe, start.run), list[tuple[ImageSet, ImageSet]]()
    # On shapes alone: whatever does not fit is then said once, before every rank has built its network.
    found = faults(here, begins=start.checkpoint is None, images=lambda one: opened.append(open_images(one)))
    refuse(recipe.model.name, found)
    remarks = check_start(start, recipe, *opened[0])
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
