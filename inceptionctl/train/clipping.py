"""Gradient clipping by the global norm: against a fixed norm, or against what the norm has been lately."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Steps that the median is of. Spikes of up to half as many steps in succession do not move it.
MEDIAN_STEPS = 64


class Clipping:
    """Scales down gradients whose global norm is too large; never waits for the device.

    Too large is a norm above `most`, where that is a number (0: none is). With None it is one above `median_factor` times the median of
    the norms, as they were before clipping, of the last 64 steps: the first step is never clipped, and a training whose norm falls or
    rises from step to step hardly ever is, whatever the norm is at.

    `num_clipped` counts steps on the device; whoever writes it down sets it back.
    """

    def __init__(self, most: float | None, median_factor: float = 4.0) -> None:
        self._most, self._median_factor = most, median_factor
        self._norms: Tensor | None = None
        self._num_norms = 0
        self.num_clipped = torch.zeros(())

    def in_words(self) -> str:
        """How gradients are clipped, for people."""
        if self._most == 0.0:
            return "none"
        return (
            f"global norm {self._most:g}"
            if self._most
            else f"global norm {self._median_factor:g} x its median over {MEDIAN_STEPS} steps"
        )

    def clip_model(self, model: nn.Module) -> Tensor:
        """Clip all gradients of a network; their global norm as it was, a tensor []."""
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.clip(gradients, norm)
        return norm

    def clip(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Clip gradients, or this rank's part of them, whose global norm is `norm`, in place.

        A norm that is not finite makes gradients that are not: it is not hidden.
        """
        limit = self._limit(norm)
        if limit is None:
            return
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        self.num_clipped = (factor < 1.0) + self.num_clipped  # which is on the CPU before the first step
        # To ask a GPU would be to wait for it. On a CPU a factor of 1 would pass over all of their memory for nothing.
        if factor.is_cuda or factor != 1.0:
            torch._foreach_mul_(list(gradients), factor)

    def _limit(self, norm: Tensor) -> Tensor | float | None:
        """The largest norm of this step; None where there is no limit. Takes the norm into the median."""
        if self._most is not None:
            return self._most or None
        known = min(self._num_norms, MEDIAN_STEPS)
        limit = self._norms_on(norm.device)[:known].median() * self._median_factor if known else None
        self._norms_on(norm.device)[self._num_norms % MEDIAN_STEPS] = norm
        self._num_norms += 1
        # Gradients that were nothing but zeros say nothing about those that come.
        return None if limit is None else torch.where(limit > 0.0, limit, math.inf)

    def _norms_on(self, device: torch.device) -> Tensor:
        if self._norms is None:
            self._norms = torch.zeros(MEDIAN_STEPS, device=device)
        return self._norms

    @property
    def state(self) -> list[float]:
        """The norms that the median is of, oldest first, for a checkpoint; waits for the device."""
        if self._norms is None:
            return []
        oldest = self._num_norms % MEDIAN_STEPS if self._num_norms > MEDIAN_STEPS else 0
        norms: list[float] = self._norms[: self._num_norms].roll(-oldest).tolist()
        return norms

    def restore(self, norms: Sequence[float], device: torch.device) -> None:
        """Go on from the `state` of a checkpoint."""
        self._num_norms = len(norms)
        self._norms_on(device)[: len(norms)] = torch.tensor(norms)


def build_clipping(values: Mapping[str, Any]) -> Clipping:
    """The clipping that the recipe's optim section (`values`) describes."""
    return Clipping(values["clip_global_norm"], values["clip_median_factor"])
