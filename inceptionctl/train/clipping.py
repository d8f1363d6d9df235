"""Gradient clipping: each weight tensor's gradient by the tensor's own norm, or all of them by the global norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from inceptionctl.recipe.variants import Optim

# A weight tensor of a smaller norm counts as one of this, else weights that start at zero would stay there.
SMALLEST_NORM = 1e-3
# A value of a one-dimensional tensor counts as at least this: batch norms and biases start at one and zero, and move in larger steps. Smaller
# numbers train more slowly, no limit lets a spike through (docs/RESULTS.md).
SMALLEST_VALUE = 5.0


class Clipping:
    """Scales down gradients that are too large; never waits for the device.

    `most`, where it is a number, is the largest global norm (0: no limit). With None, the gradient of each tensor of weights has a norm of at
    most `agc` times the tensor's own (0: no limit): adaptive gradient clipping, Brock et al., arXiv 2102.06171, section 4.1, but by whole
    tensors instead of output channels. The values of one-dimensional tensors (batch norms and biases) count as at least five each.

    `clipped` sums up, on the device, the share of each step's tensors that were scaled down; whoever writes it down sets it back.
    """

    def __init__(self, most: float | None, agc: float = 0.2) -> None:
        self._most, self._agc = most, agc
        self.clipped = torch.zeros(())
        self._of: list[int] = []
        self._smallest = torch.zeros(0)

    def in_words(self) -> str:
        """How gradients are clipped, for people."""
        if self._most is None and self._agc:
            return f"each tensor's gradient at {self._agc:g} x the norm of its weights"
        return f"global norm {self._most:g}" if self._most else "none"

    def clip_all(self, weights: Iterable[Tensor]) -> Tensor:
        """Clip the gradients of all weights that have one; their global norm as it was, a tensor []."""
        weights = [weight for weight in weights if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return self.clip(gradients, norms_of(gradients), weights)

    @torch.no_grad()
    def clip(self, gradients: Sequence[Tensor | None], norms: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Clip gradients in place; their global norm as it was.

        `norms[k]` is the norm of the gradient of `weights[k]`, and `gradients[k]` what this rank has of it: all, a part, or None. A norm that
        is not finite makes gradients that are not: it is not hidden.
        """
        norm: Tensor = torch.linalg.vector_norm(norms)
        if self._most:
            factors = (self._most / (norm + 1e-6)).clamp(max=1.0).expand(len(gradients))
            self._scale(gradients, factors)
        elif self._most is None and self._agc:
            limits = self._agc * torch.maximum(norms_of(weights), self._smallest_norms(weights))
            self._scale(gradients, (limits / (norms + 1e-6)).clamp(max=1.0))
        return norm

    def _smallest_norms(self, weights: Sequence[Tensor]) -> Tensor:
        # Made once: to copy them to the device in each step would be to wait for it.
        if self._of != [id(weight) for weight in weights]:
            values = [SMALLEST_NORM if weight.ndim > 1 else SMALLEST_VALUE * math.sqrt(weight.numel()) for weight in weights]
            self._of = [id(weight) for weight in weights]
            self._smallest = torch.stack([weights[0].new_full((), value) for value in values])
        return self._smallest

    def _scale(self, gradients: Sequence[Tensor | None], factors: Tensor) -> None:
        # Written so that a factor that is not a number counts; the sum is on the CPU before the first step.
        self.clipped = 1.0 - (factors == 1.0).float().mean() + self.clipped
        if factors.is_cuda:  # to ask which of them are 1 would be to wait for it
            here = [
                (gradient, factor) for gradient, factor in zip(gradients, factors.unbind(), strict=True) if gradient is not None
            ]
            if here:
                torch._foreach_mul_(*map(list, zip(*here, strict=True)))
            return
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if gradient is not None and factor != 1.0:
                gradient.mul_(factor)


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, [len(tensors)], on their device."""
    return torch.stack(torch._foreach_norm(list(tensors)))


def build_clipping(optim: Optim) -> Clipping:
    """The clipping that a recipe's optim section describes."""
    return Clipping(optim.clip_global_norm, optim.clip_agc)
