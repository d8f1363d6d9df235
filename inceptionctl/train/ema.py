"""Running average of the weights, as the paper's evaluation uses."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average over parameters and batch-norm statistics, with TensorFlow's warm-up of the decay.

    Update number n (from 1) uses min(decay, (1 + n) / (10 + n)), so that the average soon forgets the random start. The
    statistics are averaged too, as the original training code does. `num_updates` belongs into every checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        # The averaged network, in evaluation mode. It starts from the initial weights, as TensorFlow's does.
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._modules = list(self.model.modules())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and statistics of `model` after an optimizer step."""
        # Not torch's AveragedModel: it looks for the names of all tensors in every update, and reads its counter from the GPU.
        self.num_updates += 1
        pairs = list(zip(_tensors(self._modules), _tensors(model.modules()), strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]  # of batches, in each norm
        torch._foreach_lerp_(*_columns(numbers), 1.0 - self.decay_at(self.num_updates))
        if counters:
            torch._foreach_copy_(*_columns(counters))

    def decay_at(self, update: int) -> float:
        """Decay of update number `update` (from 1)."""
        return min(self.decay, (1 + update) / (10 + update))


def _tensors(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    """Parameters and buffers, each once."""
    own = (tensors for module in modules for tensors in (module._parameters, module._buffers))
    return dict.fromkeys(tensor for tensors in own for tensor in tensors.values() if tensor is not None)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [average for average, _ in pairs], [value for _, value in pairs]
