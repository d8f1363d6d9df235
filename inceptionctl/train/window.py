"""A log window: sums over the steps since the last row of metrics, and the stop when the numbers say so."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from inceptionctl import console
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.world import World
from inceptionctl.errors import DivergedError
from inceptionctl.run import Run
from inceptionctl.train.bad_images import share_bad_images
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.checkpoint import Progress, WindowSums
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.engine import Engine
from inceptionctl.train.health import Health, HealthWatch, largest_value, remedy
from inceptionctl.train.memory import PeakMemory
from inceptionctl.train.runlog import RunLog


@dataclass
class Window:
    """Sums of a log window. The host waits for the device only when it is closed."""

    world: World
    run: Run
    progress: Progress
    batch: BatchPlan
    engine: Engine
    health: HealthWatch
    log: RunLog
    writer: CheckpointWriter
    device: torch.device
    memory: PeakMemory
    epochs: float
    bad: BadImages
    data_root: Path
    _loss: float | None = None
    _norm: float | None = None
    _clipped_share: float = 0.0
    _speed: float | None = None
    _waited_share: float = 0.0
    _largest: float | None = None
    _fresh_bad_images: bool = False
    _seen: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a window here: what came before (an evaluation, a save) does not count as training time."""
        self._sum = torch.zeros((), device=self.device)
        self.engine.clipping.clipped.zero_()
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
        share_bad_images(self.bad, self.data_root, self.world, self.run, self.log)
        if not self._passes:
            return {}
        sums = [self._sum.clone() for _ in range(self.world.size)]
        if self.world.size > 1:
            dist.all_gather(sums, self._sum)
        return {
            "passes": self._passes,
            "accumulation": self.batch.accumulation,
            "loss_sums": [float(one) for one in sums],
            "clipped": float(self.engine.clipping.clipped),
        }

    def load_state_dict(self, kept: WindowSums) -> None:
        """Begin in the middle of a window; with other ranks or micro batches than it was begun, from the mean over them."""
        if not kept:
            return
        sums, before = kept["loss_sums"], kept["passes"]
        passes = before // kept["accumulation"] * self.batch.accumulation
        same = (len(sums), before) == (self.world.size, passes)
        self._sum += sums[self.world.rank] if same else sum(sums) / len(sums) / before * passes
        self._passes = self._passes_before = passes
        self.engine.clipping.clipped += kept.get("clipped", 0.0)

    def is_sound(self, kept: WindowSums) -> bool:
        """Whether what `state_dict` gave, and the network as it is, are finite: whether it may be saved in the middle of a window."""
        return all(map(math.isfinite, kept.get("loss_sums", []))) and math.isfinite(float(largest_value(self.engine.model)))

    def close(self, rate: float, *, saves: bool) -> None:
        """Write the window's row and begin the next. `saves`: the network as it is now may be saved, and is looked at too.

        Raises DivergedError on every rank when loss, gradient or network is not finite, or it has died; the row is written before.
        """
        self._read(saves)
        if self._fresh_bad_images:
            share_bad_images(self.bad, self.data_root, self.world, self.run, self.log)
        seconds = time.perf_counter() - self._began
        self._speed = (self._passes - self._passes_before) * self.batch.micro_batch_size * self.world.size / seconds
        self._waited_share = self._waited / seconds
        self.log.row("train", self._row(rate))
        self.log.progress(self.line(rate), window_ended=True)
        dead = self.health.judge(self._seen)
        if not (_is_finite(self._loss) and _is_finite(self._norm)):
            raise self._diverged(
                f"loss {self._loss} and gradient norm {self._norm} are not finite", self._seen.first_not_finite
            )
        if not _is_finite(self._largest):
            raise self._diverged("the step has left weights or statistics that are not finite", self._seen.first_not_finite)
        if dead or (self.health.suspects and self.progress.step == self.progress.total_steps):
            share = f"{self._seen.zero_share:.2%} of the values before the average pool are zero: the network has died"
            raise self._diverged(share, self._seen.first_silent or self._seen.largest)
        if self.health.suspects:
            self.log.say(
                f"step {self.progress.step}: {self._seen.zero_share:.2%} of the values before the average pool are zero;"
                " nothing is saved while that lasts"
            )
        self.restart()

    def _read(self, saves: bool) -> None:
        """The numbers of the window, the mean over the ranks; the only wait for the device."""
        numbers = [self._sum.new_tensor(self.bad.num_fresh), self._sum / self._passes]
        numbers += [largest_value(self.engine.model)] if saves else []
        numbers += self.health.numbers()
        shared = torch.stack([number.float() for number in numbers])
        if self.world.size > 1:
            dist.all_reduce(shared)
            shared /= self.world.size
        norm = self.engine.grad_norm  # the same on every rank
        clipped = self.engine.clipping.clipped.to(shared.device)
        values = (shared if norm is None else torch.cat([torch.stack([norm.float(), clipped]), shared])).tolist()
        if norm is not None:
            self._norm = values.pop(0)
            self._clipped_share = values.pop(0) * self.batch.accumulation / self._passes
        self._fresh_bad_images = values.pop(0) > 0.0
        self._loss = values.pop(0)
        self._largest = values.pop(0) if saves else None
        self._seen = self.health.health(values)

    def _row(self, rate: float) -> dict[str, object]:
        numbers: dict[str, float | None] = {
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "loss": self._loss,
            "learning_rate": rate,
            "grad_norm": self._norm,
            "clipped_share": self._clipped_share,
            "images_per_second": self._speed,
            "data_wait": self._waited_share,
            **self.memory.numbers(),
            "bad_images": len(self.bad),
            "failed_saves": self.writer.num_failed,
            "rollbacks": len(self.progress.rollbacks),
            "skipped_batches": self.progress.batch - self.progress.step,
        }
        if self._seen.zero_share is not None:
            numbers["zero_share"] = self._seen.zero_share
        row: dict[str, object] = {key: _as_json(value) for key, value in numbers.items()}
        if self._seen.activation_rms:
            row["activation_rms"] = {name: _as_json(value) for name, value in self._seen.activation_rms.items()}
        return row

    def _diverged(self, what: str, block: str | None) -> DivergedError:
        where = f" (block {block}, activations of {self._seen.activation_rms[block]:.3g} root mean square)" if block else ""
        return DivergedError(f"{what} at step {self.progress.step}{where}", remedy(self.engine.model))

    def line(self, rate: float) -> str:
        """The live line, with the numbers of the last closed window."""
        progress = self.progress
        parts = [
            f"epoch {progress.epoch:.2f}/{self.epochs:g}",
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
            left = (progress.total_steps - progress.step) * self.batch.global_batch_size / self._speed
            parts += [f"{self._speed:.0f} images/s", f"data wait {self._waited_share:.0%}", f"left {console.duration(left)}"]
        return "  ".join(parts)


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _as_json(value: float | None) -> float | str | None:
    return value if _is_finite(value) else str(value)
