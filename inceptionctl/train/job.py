"""A training as its loop sees it: all that it consists of, and the log window that it sums up."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from inceptionctl import console
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.world import World
from inceptionctl.errors import CheckpointError, DataError, DivergedError, RelayedError
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run
from inceptionctl.storage import write_atomically
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.checkpoint import Progress, WindowSums
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.engine import Engine
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.step import (
    Health,
    HealthWatch,
    Precision,
    SharedStatistics,
    Stop,
    class_weights_of,
    largest_value,
    remedy,
)
from inceptionctl.train.unfreezing import TrainedBlocks


class Batches(Protocol):
    """Micro batches in the order of the training."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Free what reads and decodes."""


@dataclass
class Training:
    """Everything that the loop works on, ready to go (train/build.py makes it)."""

    session: Session
    recipe: Recipe
    run: Run
    precision: Precision
    batch: BatchPlan
    train_set: ImageSet
    val_set: ImageSet
    engine: Engine
    average: WeightAverage
    statistics: SharedStatistics
    health: HealthWatch
    blocks: TrainedBlocks
    progress: Progress
    log: RunLog
    writer: CheckpointWriter
    loader_settings: LoaderSettings
    bad: BadImages
    stop: Stop
    loader: Callable[[Training], Batches]
    """Opens the batches from `progress` on: `train_loader` (train/loop.py), but for `inceptionctl bench step`."""

    def __post_init__(self) -> None:
        # Of the whole start: a rollback begins other windows.
        self.memory = PeakMemory(self.device)
        weights = class_weights_of(self.recipe.train.class_weights, self.train_set)
        self.class_weights = weights if weights is None else weights.to(self.device)

    @property
    def world(self) -> World:
        """Which rank this is."""
        return self.session.world

    @property
    def device(self) -> torch.device:
        """What it computes on."""
        return self.session.device

    @property
    def heartbeat(self) -> Heartbeat:
        """Its sign of life."""
        return self.session.heartbeat

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of one pass over the images; not a whole number in general."""
        return len(self.train_set) / self.batch.global_batch_size

    def take_blocks(self, step: int) -> bool:
        """Train the blocks that a step is to train (`model.unfreeze`); whether they are others than before."""
        stage, before = (self.blocks.stage_in(number / self.steps_per_epoch) for number in (step, step - 1))
        if stage == self.blocks.stage:
            return False
        self.blocks.enter(stage)
        self.blocks.set_modes()
        self.statistics.include(stage)
        self.engine.trains_others()
        if before < stage:
            names = ", ".join([*(self.recipe.model.unfreeze or {}).values()][stage - 1])
            self.log.say(f"epoch {step / self.steps_per_epoch:.2f}, step {step}: unfreezes {names}")
        return True


class Window:
    """Sums over the steps since the last row of metrics. The host waits for the device only when it is closed.

    It begins with what the window had when a signal came, if one did.
    """

    def __init__(self, job: Training) -> None:
        self._job = job
        self._loss: float | None = None
        self._norm: float | None = None
        self._clipped_share = 0.0
        self._speed: float | None = None
        self._waited_share = 0.0
        self._largest: float | None = None
        self._fresh_bad_images = False
        self._seen = Health()
        self.restart()
        self._load_state_dict(job.progress.window)
        job.progress.window = {}

    def restart(self) -> None:
        """Begin a window here: what came before (an evaluation, a save) does not count as training time."""
        self._sum = torch.zeros((), device=self._job.device)
        self._job.engine.clipping.clipped.zero_()
        self._passes = 0
        self._passes_before = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, with the time that it was waited for."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, loss: Tensor) -> None:
        """Count one pass; no wait for the device."""
        self._sum += loss.detach()
        self._passes += 1

    def state_dict(self) -> WindowSums:
        """What a checkpoint in the middle of a window must hold for its row to become what it would have been; a collective call."""
        share_bad_images(self._job)
        if not self._passes:
            return {}
        sums = [self._sum.clone() for _ in range(self._job.world.size)]
        if self._job.world.size > 1:
            dist.all_gather(sums, self._sum)
        return {
            "passes": self._passes,
            "accumulation": self._job.batch.accumulation,
            "loss_sums": [float(one) for one in sums],
            "clipped": float(self._job.engine.clipping.clipped),
        }

    def _load_state_dict(self, kept: WindowSums) -> None:
        """Begin in the middle of a window; with other ranks or micro batches than it was begun, from the mean over them."""
        if not kept:
            return
        sums, before = kept["loss_sums"], kept["passes"]
        passes = before // kept["accumulation"] * self._job.batch.accumulation
        same = (len(sums), before) == (self._job.world.size, passes)
        self._sum += sums[self._job.world.rank] if same else sum(sums) / len(sums) / before * passes
        self._passes = self._passes_before = passes
        self._job.engine.clipping.clipped += kept.get("clipped", 0.0)

    def is_sound(self, kept: WindowSums) -> bool:
        """Whether what `state_dict` gave, and the network as it is, are finite: whether it may be saved in the middle of a window."""
        return all(map(math.isfinite, kept.get("loss_sums", []))) and math.isfinite(
            float(largest_value(self._job.engine.model))
        )

    def close(self, rate: float, *, saves: bool) -> None:
        """Write the window's row and begin the next. `saves`: the network as it is now may be saved, and is looked at too.

        Raises DivergedError on every rank when loss, gradient or network is not finite, or it has died; the row is written before.
        """
        self._read(saves)
        if self._fresh_bad_images:
            share_bad_images(self._job)
        seconds = time.perf_counter() - self._began
        self._speed = (self._passes - self._passes_before) * self._job.batch.micro_batch_size * self._job.world.size / seconds
        self._waited_share = self._waited / seconds
        self._job.log.row("train", self._row(rate))
        self._job.log.progress(self.line(rate), window_ended=True)
        dead = self._job.health.judge(self._seen)
        if not (_is_finite(self._loss) and _is_finite(self._norm)):
            raise self._diverged(
                f"loss {self._loss} and gradient norm {self._norm} are not finite", self._seen.first_not_finite
            )
        if not _is_finite(self._largest):
            raise self._diverged("the step has left weights or statistics that are not finite", self._seen.first_not_finite)
        if dead or (self._job.health.suspects and self._job.progress.step == self._job.progress.total_steps):
            share = f"{self._seen.zero_share:.2%} of the values before the average pool are zero: the network has died"
            raise self._diverged(share, self._seen.first_silent or self._seen.largest)
        if self._job.health.suspects:
            self._job.log.say(
                f"step {self._job.progress.step}: {self._seen.zero_share:.2%} of the values before the average pool are zero;"
                " nothing is saved while that lasts"
            )
        self.restart()

    def _read(self, saves: bool) -> None:
        """The numbers of the window, the mean over the ranks; the only wait for the device."""
        numbers = [self._sum.new_tensor(self._job.bad.num_fresh), self._sum / self._passes]
        numbers += [largest_value(self._job.engine.model)] if saves else []
        numbers += self._job.health.numbers()
        shared = torch.stack([number.float() for number in numbers])
        if self._job.world.size > 1:
            dist.all_reduce(shared)
            shared /= self._job.world.size
        norm = self._job.engine.grad_norm  # the same on every rank
        clipped = self._job.engine.clipping.clipped.to(shared.device)
        values = (shared if norm is None else torch.cat([torch.stack([norm.float(), clipped]), shared])).tolist()
        if norm is not None:
            self._norm = values.pop(0)
            self._clipped_share = values.pop(0) * self._job.batch.accumulation / self._passes
        self._fresh_bad_images = values.pop(0) > 0.0
        self._loss = values.pop(0)
        self._largest = values.pop(0) if saves else None
        self._seen = self._job.health.health(values)

    def _row(self, rate: float) -> dict[str, object]:
        numbers: dict[str, float | None] = {
            "step": self._job.progress.step,
            "epoch": self._job.progress.epoch,
            "loss": self._loss,
            "learning_rate": rate,
            "grad_norm": self._norm,
            "clipped_share": self._clipped_share,
            "images_per_second": self._speed,
            "data_wait": self._waited_share,
            **self._job.memory.numbers(),
            "bad_images": len(self._job.bad),
            "failed_saves": self._job.writer.num_failed,
            "rollbacks": len(self._job.progress.rollbacks),
            "skipped_batches": self._job.progress.batch - self._job.progress.step,
        }
        if self._job.recipe.model.unfreeze:
            numbers["frozen_blocks"] = len(
                self._job.recipe.model.frozen_at(self._job.progress.epoch - 1 / self._job.steps_per_epoch)
            )
        if self._seen.zero_share is not None:
            numbers["zero_share"] = self._seen.zero_share
        row: dict[str, object] = {key: _as_json(value) for key, value in numbers.items()}
        if self._seen.activation_rms:
            row["activation_rms"] = {name: _as_json(value) for name, value in self._seen.activation_rms.items()}
        return row

    def _diverged(self, what: str, block: str | None) -> DivergedError:
        where = f" (block {block}, activations of {self._seen.activation_rms[block]:.3g} root mean square)" if block else ""
        return DivergedError(f"{what} at step {self._job.progress.step}{where}", remedy(self._job.engine.model))

    def line(self, rate: float) -> str:
        """The live line, with the numbers of the last closed window."""
        progress = self._job.progress
        parts = [
            f"epoch {progress.epoch:.2f}/{self._job.recipe.train.epochs:g}",
            f"step {progress.step}/{progress.total_steps}",
        ]
        if self._loss is not None and self._speed is not None:
            parts.append(f"loss {self._loss:.4f}")
        parts.append(f"lr {rate:.3g}")
        if self._norm is not None:
            parts.append(f"norm {self._norm:.2f}" + (f" ({self._clipped_share:.0%} clipped)" if self._clipped_share else ""))
        if self._seen.zero_share is not None:
            parts.append(f"zeros {self._seen.zero_share:.0%}")
        if self._speed is not None:
            left = (progress.total_steps - progress.step) * self._job.batch.global_batch_size / self._speed
            parts += [f"{self._speed:.0f} images/s", f"data wait {self._waited_share:.0%}", f"left {console.duration(left)}"]
        return "  ".join(parts)


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _as_json(value: float | None) -> float | str | None:
    return value if _is_finite(value) else str(value)


class PeakMemory:
    """The most memory so far, in bytes, as rows of metrics have it.

    On a GPU `peak_memory_bytes` is the most that was taken of the device whenever `numbers` was asked for: torch's, DALI's and nvJPEG's
    pools, NCCL, the CUDA context, and what other processes hold of it. The pools keep what they have once taken, so that little is
    missed between two questions. `torch_peak_memory_bytes` is the most at any time of what torch has given out to tensors, of this
    process alone. On a CPU there is the most that the process has ever had of the host's memory, and nothing else.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most = 0

    def numbers(self) -> dict[str, int]:
        """Look, and give what a row says. No wait for the device, but the driver is asked: not for every step."""
        if self._device.type != "cuda":
            return {"peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        free, total = torch.cuda.mem_get_info(self._device)
        self._most = max(self._most, total - free)
        return {"peak_memory_bytes": self._most, "torch_peak_memory_bytes": torch.cuda.max_memory_allocated(self._device)}


def read_bad_images(run: Run) -> list[tuple[str, str]]:
    """(name, reason) of the images that earlier starts of a run could not read; they are not reported again."""
    if not run.bad_images_file.exists():
        return []
    try:
        return [
            (str(item["image"]), str(item["reason"])) for item in json.loads(run.bad_images_file.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(
            f"{run.bad_images_file} is no list of images with reasons", "move it away: the images are found again"
        ) from None


def share_bad_images(job: Training) -> None:
    """Tell all ranks what each has found; a collective call. Raises DataError on rank 0, and its relay elsewhere, when it is too much."""
    mine = job.bad.take_fresh()
    found = [mine]
    if job.world.size > 1:
        found = [[] for _ in range(job.world.size)]
        dist.all_gather_object(found, mine)
    fresh = [*found[0], *job.bad.add(pair for part in found for pair in part)]
    if job.world.rank == 0 and fresh:
        _note_bad_images(job, fresh)
    try:
        job.bad.check(job.train_set.root)
    except DataError as error:
        if job.world.rank != 0:  # they know the same; one message is enough
            raise RelayedError(error.exit_code) from None
        raise


def _note_bad_images(job: Training, fresh: list[tuple[str, str]]) -> None:
    for name, reason in fresh:
        job.log.say(f"an image is left out: {name}: {reason}")
    items = [{"image": name, "reason": reason} for name, reason in [*read_bad_images(job.run), *fresh]]
    write_atomically(job.run.bad_images_file, json.dumps(items, indent=2) + "\n")
