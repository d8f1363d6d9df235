"""Running average of the weights, as the paper's evaluation uses."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average over parameters and batch-norm statistics, with TensorFlow's warm-up of the decay.

    Update number n (from 1) uses min(decay, (1 + n) / (10 + n)), so that the average soon forgets the random start. The
    statistics are averaged too, as the original training code does. It starts from the initial weights, as TensorFlow's.

    torch's AveragedModel copies the model at its first update, and keeps its counter in a tensor that it copies to the device once for
    each kind of tensor and update: a wait for the device, where nothing else in a step waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        """Updates so far; belongs into every checkpoint."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """The averaged network, in evaluation mode."""
        self._of: nn.Module | None = None
        self._averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counters: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and statistics of `model` after an optimizer step. No wait for the device."""
        self.num_updates += 1
        if self._of is not model:
            self._find_tensors(model)
        torch._foreach_lerp_(*self._averaged, 1.0 - self.decay_at(self.num_updates))
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)

    def _find_tensors(self, model: nn.Module) -> None:
        # Once: to walk through both networks takes the host milliseconds, and in a step of a GPU it is the host that is short of time.
        self._of = model
        own, theirs = (itertools.chain(each.parameters(), each.buffers()) for each in (self.model, model))
        pairs = list(zip(own, theirs, strict=True))
        self._averaged = _columns(pair for pair in pairs if pair[0].is_floating_point())
        self._counters = _columns(pair for pair in pairs if not pair[0].is_floating_point())  # of batches, one in each norm

    def decay_at(self, update: int) -> float:
        """Decay of update number `update` (from 1)."""
        return min(self.decay, (1 + update) / (10 + update))


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    rows = list(pairs)
    return [one for one, _ in rows], [other for _, other in rows]
