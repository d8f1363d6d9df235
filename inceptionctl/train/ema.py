"""Running average of the weights, as the paper's evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """Exponential moving average over parameters and batch-norm statistics, with TensorFlow's warm-up of the decay.

    Update number n (from 1) uses min(decay, (1 + n) / (10 + n)), so that the average soon forgets the random start. The
    statistics are averaged too, as the original training code does. `num_updates` belongs into every checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        # Two changes to torch's class: it would copy at the first update (TensorFlow starts from the initial weights), and it
        # would read its counter from the GPU at every update (a wait for the device).
        self.averaged.n_averaged = torch.ones((), dtype=torch.long)
        self.averaged.requires_grad_(False)
        self.averaged.eval()

    @property
    def model(self) -> nn.Module:
        """The averaged network, in evaluation mode."""
        return self.averaged.module

    @property
    def num_updates(self) -> int:
        """Updates so far."""
        return int(self.averaged.n_averaged) - 1

    @num_updates.setter
    def num_updates(self, number: int) -> None:
        self.averaged.n_averaged.fill_(number + 1)

    def update(self, model: nn.Module) -> None:
        """Take in the weights and statistics of `model` after an optimizer step."""
        self.averaged.update_parameters(model)

    def decay_at(self, update: int) -> float:
        """Decay of update number `update` (from 1)."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def _average(self, averages: Tensors, values: Tensors, _number: Tensor | int) -> None:
        weight = 1.0 - self.decay_at(self.num_updates + 1)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, weight)
        else:  # the counter of batches in each norm
            torch._foreach_copy_(averages, values)
