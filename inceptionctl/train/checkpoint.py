"""Tensors of a checkpoint: what is written, and how it comes back. safetensors and JSON only; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inceptionctl.console import JsonObject
from inceptionctl.data.sampler import batch_at
from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.storage import disk_errors, sync, temporary_folder, write_atomically
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.optim import WeightAverage, described_optimizer, state_names
from inceptionctl.train.optimizer_state import OptimizerState, WholeState


class Best(TypedDict, total=False):
    """A validation; nothing before the first."""

    step: int
    top1_error: float
    top5_error: float
    loss: float
    subset: str


class Lowest(TypedDict, total=False):
    """The lowest value of the metric that early stopping goes by; nothing before the first validation, and without it."""

    metric: str
    subset: str
    value: float
    step: int


class Rollback(TypedDict):
    """What one has done (train/rollback.py); all batches from the first to the last are skipped from then on."""

    step: int
    to_step: int
    first_batch: int
    last_batch: int
    reason: str


class WindowSums(TypedDict, total=False):
    """A log window that a signal has interrupted (train/job.py); nothing between windows."""

    passes: int
    accumulation: int
    loss_sums: list[float]
    """Of each rank."""
    clipped: float


@dataclass
class Progress:
    """Where a run is. Its next batch of the stream follows from `step` and `rollbacks` alone, epoch and schedule from `step`."""

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    ema_updates: int = 0
    best: Best = field(default_factory=Best)
    """The best validation so far."""
    kept: list[int] = field(default_factory=list)
    """Steps whose checkpoints are kept for good, this one's among them."""
    classes: list[str] = field(default_factory=list)
    recipe: JsonObject = field(default_factory=dict)
    num_train_images: int = 0
    precision: str = "fp32"
    ranks: int = 1
    evaluation_due: bool = False
    """A signal came before the validation that was due after this step."""
    window: WindowSums = field(default_factory=WindowSums)
    """What the log window had summed up when a signal came (train/job.py)."""
    rollbacks: list[Rollback] = field(default_factory=list)
    """Oldest first."""
    lowest: Lowest = field(default_factory=Lowest)
    stopped_early: str = ""
    """Why the training has ended before `total_steps`; empty if it has not."""

    def best_on(self, subset: str) -> Best:
        """The best so far; empty where that was on another subset of the validation images, which compares with nothing."""
        return self.best if self.best.get("subset", "all") == subset else {}

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """Ranges of batches of the stream that are never used: (first, last)."""
        return [(each["first_batch"], each["last_batch"]) for each in self.rollbacks]

    @property
    def batch(self) -> int:
        """The batch of the stream that the next step takes."""
        return batch_at(self.step, self.skipped)


def progress_of(checkpoint: Path) -> Progress:
    """The Progress that a checkpoint kept. Raises CheckpointError when keys are missing or unknown."""
    content = files.read_progress(checkpoint)
    try:
        return Progress(**content)
    except TypeError as error:
        raise CheckpointError(
            f"{checkpoint}/progress.json is of another version: {error}", "use the inceptionctl that wrote it"
        ) from None


@dataclass
class Snapshot:
    """A copy of everything that a checkpoint holds, on the CPU: training continues while it is written."""

    tensors: dict[str, dict[str, Tensor]]
    """Tensors by name, by file."""
    progress: JsonObject

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.progress["step"])


def take_snapshot(
    model: nn.Module,
    average: WeightAverage,
    state: Mapping[str, Tensor],
    progress: Progress,
    into: Snapshot | None = None,
) -> Snapshot:
    """Copy all tensors (`state` are the optimizer's); into the memory of an earlier snapshot, which is used up, where shapes agree."""
    sources: dict[str, Mapping[str, Tensor]] = {
        "model.safetensors": model.state_dict(),
        "ema.safetensors": average.model.state_dict(),
        "optimizer.safetensors": state,
    }
    memory = into.tensors if into else {}
    copies = {file: _copied(tensors, memory.get(file, {})) for file, tensors in sources.items()}
    device = next(model.parameters()).device
    if device.type == "cuda":  # only now is in the copies what is to be written
        torch.cuda.synchronize(device)
    return Snapshot(copies, asdict(progress))


def _copied(tensors: Mapping[str, Tensor], memory: dict[str, Tensor]) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        copy = memory.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            # Contiguous, as safetensors wants it; pinned, so that a GPU copies without waiting for each tensor.
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = copy.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
    return copies


def save_checkpoint(
    checkpoints: Path, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, progress: Progress
) -> Path:
    """Take a snapshot and write it, both now, of an optimizer that holds its whole state."""
    return write_snapshot(checkpoints, take_snapshot(model, average, WholeState(model, optimizer).state_dict(), progress))


def write_snapshot(checkpoints: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint to a temporary folder, sync it, rename it, and then let `latest`, and `best` if it is that, name it.

    Raises EnvironmentFault when the disk refuses; older checkpoints and pointers are untouched then.
    """
    final = files.step_folder(checkpoints, snapshot.step)
    with disk_errors(final), temporary_folder(final) as temporary:
        for name, tensors in snapshot.tensors.items():
            write_tensors(temporary / name, tensors)
        write_atomically(temporary / "progress.json", json.dumps(snapshot.progress, indent=2) + "\n")
        files.seal(temporary)
        if final.exists():  # a damaged checkpoint of the same step, which a resume has passed over
            files.delete(final)
    files.point(checkpoints, "latest", final)
    if snapshot.progress["best"].get("step") == snapshot.step:
        files.point(checkpoints, "best", final)
    return final


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, from any device and in any memory format, and sync them."""
    write_tensors(path, {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def write_tensors(path: Path, plain: dict[str, Tensor]) -> None:
    """Write contiguous tensors on the CPU that share no memory, and sync them.

    Raises EnvironmentFault when the disk refuses.
    """
    try:
        save_file(plain, str(path), metadata={"format": "pt"})
    except SafetensorError as error:
        # The Rust writer wraps the operating system's error in text.
        if "No space left" in str(error) or "os error 28" in str(error) or "os error 122" in str(error):
            raise EnvironmentFault(
                f"no space left while writing {path.parent.parent}",
                "free some space or quota, then run the same command again to go on",
            ) from None
        raise EnvironmentFault(f"cannot write {path}: {error}", "choose another place with --output") from None
    sync(path)


def load_checkpoint(checkpoint: Path, model: nn.Module, average: WeightAverage, state: OptimizerState) -> Progress:
    """Put a verified checkpoint back into network, average and optimizer, in place.

    Raises CheckpointError when it is of another network.
    """
    progress = progress_of(checkpoint)
    load_weights(checkpoint / "model.safetensors", model)
    load_weights(checkpoint / "ema.safetensors", average.model)
    average.num_updates = progress.ema_updates
    _check_same_optimizer(checkpoint, progress, state.optimizer)
    state.load_state_dict(read_tensors(checkpoint / "optimizer.safetensors"))
    return progress


def _check_same_optimizer(checkpoint: Path, progress: Progress, optimizer: torch.optim.Optimizer) -> None:
    kept = progress.recipe.get("optim")
    if not kept:
        return
    theirs = kept["name"], set(state_names(kept["name"], kept))
    ours = described_optimizer(optimizer)
    if ours != theirs:
        raise CheckpointError(
            f"{checkpoint} holds the state of {_in_words(*theirs)}, the recipe asks for {_in_words(*ours)}",
            "resume with the same optim section, or start from these weights alone with model.init_from",
        )


def _in_words(name: str, states: set[str]) -> str:
    return f"{name} with {' and '.join(sorted(states)) or 'nothing'} a weight"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises CheckpointError when it is damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    return tensors


def read_shapes(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file as its header tells, on the meta device: shapes without values, all in fp32.

    Raises CheckpointError when the header is damaged, or the file shorter than it says.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot read {path}: {error}", "use another checkpoint of the run")


@torch.no_grad()
def load_weights(path: Path, model: nn.Module) -> None:
    """Copy weights and statistics into a network, in place. Raises CheckpointError listing every tensor that does not fit."""
    tensors, own = read_tensors(path), model.state_dict()
    wrong = misfits(tensors, own)
    if wrong:
        raise CheckpointError(f"{path} is of another network:\n  {wrong}", "use the recipe that it was trained with")
    for name, value in own.items():
        value.copy_(tensors[name])


def misfits(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What of the tensors of a file does not fit a network's, a line each for the first five; empty where everything does."""
    wrong = [f"{name}: missing" for name in own if name not in theirs]
    wrong += [f"{name}: not in this network" for name in theirs if name not in own]
    wrong += [
        f"{name}: {tuple(theirs[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in theirs and theirs[name].shape != own[name].shape
    ]
    return "\n  ".join(wrong[:5]) + (f"\n  ... and {len(wrong) - 5} more" if len(wrong) > 5 else "")
