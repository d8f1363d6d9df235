"""One set of batch-norm statistics for all ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
