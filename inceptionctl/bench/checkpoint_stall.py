"""`bench checkpoint`: how long a save blocks training, written in the background and in the foreground, beside a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from inceptionctl.bench.figures import Contestant, Figure, interleaved
from inceptionctl.bench.step_rate import BareLoop, noise
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.optimizer_state import WholeState
from inceptionctl.train.step import allow_tf32, resolve_precision


def bench_checkpoint(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    repeats: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Figure], int]:
    """Figures in seconds, and the bytes of a checkpoint.

    `folder` is on the disk to be measured and is written into. A step is one micro batch of noise on one rank, without the reading of
    data. Raises EnvironmentFault when the disk refuses.
    """
    allow_tf32(recipe.train.tf32)
    precision = resolve_precision(recipe.train.precision, device)
    loop = BareLoop(
        recipe, noise(recipe, recipe.train.micro_batch_size, device), precision, recipe.train.channels_last, passes=1
    )
    average, at = WeightAverage(loop.network, recipe.train.ema_decay), Progress(recipe=recipe.resolved())
    writer = CheckpointWriter(folder / "background", keep_last=1, keep_best=False, say=lambda _: None)
    state = WholeState(loop.network, loop.optimizer)

    def step() -> None:
        loop.round()
        average.update(loop.network)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def save() -> None:
        writer.save(loop.network, average, state.state_dict(), at)

    def save_in_foreground() -> None:
        save_checkpoint(folder / "foreground", loop.network, average, loop.optimizer, at)

    def writing_begun() -> None:
        writer.finish()
        save()

    step()  # an optimizer has its state after the first
    contestants = [
        Contestant("step", step, 1, before=writer.finish),
        Contestant("held up, foreground", save_in_foreground, 1),
        Contestant("held up, background", save, 1, before=writer.finish),
        Contestant("step while one is written", step, 1, before=writing_begun),
    ]
    taken = interleaved(contestants, repeats, progress)
    writer.finish()
    figures = [Figure(one.name, "s", [each.seconds for each in taken[one.name]]) for one in contestants]
    seconds = {figure.name: figure.values for figure in figures}
    for name in ("held up, foreground", "held up, background"):
        shares = [stall / step for stall, step in zip(seconds[name], seconds["step"], strict=True)]
        figures.append(Figure(f"{name} / step", "ratio", shares))
    saved = next((folder / "background").glob("step-*"))
    return figures, sum(file.stat().st_size for file in saved.iterdir())
