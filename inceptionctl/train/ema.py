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

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and statistics of `model` after an optimizer step. No wait for the device."""
        self.num_updates += 1
        own, theirs = (itertools.chain(each.parameters(), each.buffers()) for each in (self.model, model))
        pairs = list(zip(own, theirs, strict=True))
        averages, values = _columns(pair for pair in pairs if pair[0].is_floating_point())
        torch._foreach_lerp_(averages, values, 1.0 - self.decay_at(self.num_updates))
        counters, values = _columns(pair for pair in pairs if not pair[0].is_floating_point())  # of batches, one in each norm
        if counters:
            torch._foreach_copy_(counters, values)

    def decay_at(self, update: int) -> float:
        """Decay of update number `update` (from 1)."""
        return min(self.decay, (1 + update) / (10 + update))


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    rows = list(pairs)
    return [one for one, _ in rows], [other for _, other in rows]
