"""Batch norm in training: statistics that all ranks share, and batches that it cannot normalise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.models import build_model
from inceptionctl.models.summary import norms_of_one_value
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.fine_tuning import freeze


class SharedStatistics:
    """Keeps the running means and variances of all ranks equal: their average, after every optimizer step.

    Each rank normalises by its own micro batch; without this the running statistics drift apart and rank 0's would be saved.
    The average counts as one update for each rank's micro batch: the norms' momentum is raised to `momentum_over_ranks`. So what
    is left of the history depends on how many micro batches were seen, and not on how many ranks saw them.
    All of them lie in one flat tensor (the modules hold views), so that a step costs one small all-reduce and no copies. Doing it
    every step, and not only before an evaluation or a save, gives the same numbers whenever a run is saved: averaging is linear,
    but its rounding is not, and a resumed run must equal one that was never stopped bit for bit.

    `votes`, the last place of the tensor, belongs to train/stopping.py: it goes round with the statistics for nothing.
    """

    def __init__(self, model: nn.Module, num_ranks: int, frozen: Iterable[nn.Module] = ()) -> None:
        self.num_ranks = num_ranks
        # Frozen statistics are the same everywhere, and would drift by the rounding of the division.
        still = {id(module) for block in frozen for module in block.modules()}
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and id(module) not in still]
        for module in norms:
            if module.momentum is not None:
                module.momentum = momentum_over_ranks(module.momentum, num_ranks)
        buffers = [tensor for module in norms for tensor in _statistics(module)]
        size = sum(buffer.numel() for buffer in buffers)
        self.flat = torch.empty(size + 1, device=next(model.parameters()).device)
        self.votes = self.flat[-1:].zero_()
        start = 0
        for buffer in buffers:
            view = self.flat[start : start + buffer.numel()].view_as(buffer)
            view.copy_(buffer)
            buffer.data = view
            start += buffer.numel()

    @torch.no_grad()
    def average(self) -> None:
        """Average over the ranks; a collective call."""
        if self.num_ranks > 1:
            dist.all_reduce(self.flat)
            self.flat.div_(self.num_ranks)


def momentum_over_ranks(momentum: float, num_ranks: int) -> float:
    """Share of the new in one update that leaves as much of the old as `num_ranks` updates with `momentum`, one after another."""
    # One rank's own value is not rounded: a training on one rank is the same, bit for bit, with and without this.
    return 1 - (1 - momentum) ** num_ranks if num_ranks > 1 else momentum


def _statistics(module: _BatchNorm) -> list[Tensor]:
    return [tensor for tensor in (module.running_mean, module.running_var) if tensor is not None]


def check_batch_norm(recipe: Recipe, batch: BatchPlan, option: str | None = None) -> None:
    """Raise RecipeError where micro batches of one image leave a batch norm one value a channel, which has no variance.

    The error names the smallest micro batch that works: as keys of the recipe, or as the `option` of a command that has one for it.
    Frozen norms, which take their statistics as they are, do not count.
    """
    if batch.micro_batch_size > 1:
        return
    with torch.device("meta"):
        model = build_model(**recipe.model.network())
    for block in freeze(model, recipe.model.freeze):
        block.eval()
    lonely = norms_of_one_value(model, recipe.model.input_px)
    if lonely:
        more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
        message = f"with micro batches of one image {lonely[0]}{more} of {recipe.model.name} at {recipe.model.input_px} px"
        raise RecipeError(
            "the batch is too small for batch norm",
            problems=[Problem(*_way_out(batch, f"{message} would normalise single values, whose variance is none", option))],
        )


def _way_out(batch: BatchPlan, message: str, option: str | None) -> tuple[str, str, str]:
    if option:
        return option, message, f"give {option} 2, the smallest that works"
    share = batch.global_batch_size // batch.ranks
    if share == 1:
        fewer = ", or use fewer ranks" if batch.ranks > 1 else ""
        return (
            "train.global_batch_size",
            message,
            f"set train.global_batch_size to {2 * batch.ranks} and train.micro_batch_size to 2, the smallest that works{fewer}",
        )
    smallest = next(size for size in range(2, share + 1) if share % size == 0)
    return "train.micro_batch_size", message, f"set train.micro_batch_size to {smallest}, the smallest that works"
