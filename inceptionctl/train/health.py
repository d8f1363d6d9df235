"""Watch for what the paper saw die: networks whose last layer before the average pool gives nothing but zeros (section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inceptionctl.models.inception_resnet import ResidualBlock
from inceptionctl.recipe.schema import HealthSection

LARGEST_SAFE_SCALE = 0.3  # of the paper's "between 0.1 and 0.3"


@dataclass(frozen=True)
class Health:
    """What one pass showed: `zero_share` of the values before the average pool (None: the network names no pool), and the root mean
    square of each block's output in the order of the forward pass."""

    zero_share: float | None = None
    activation_rms: dict[str, float] = field(default_factory=dict)

    @property
    def first_not_finite(self) -> str | None:
        """The first block whose output is not finite."""
        return next((name for name, scale in self.activation_rms.items() if not math.isfinite(scale)), None)

    @property
    def first_silent(self) -> str | None:
        """The first block that gives nothing but zeros."""
        return next((name for name, scale in self.activation_rms.items() if scale == 0.0), None)

    @property
    def largest(self) -> str | None:
        """The block with the largest activations."""
        return max(self.activation_rms, key=lambda name: self.activation_rms[name], default=None)


class HealthWatch:
    """Measures a network in the passes that it is told to listen to; costs nothing in the others but a call of a hook.

    Two reductions over each block's output, no wait for the device: `numbers` stay on it until somebody reads them. With `always` it
    listens to every pass, for a network that is compiled as a whole: a graph without the reductions and one with them would take
    twice the time to compile, and in the graph they cost next to nothing.
    """

    def __init__(self, model: nn.Module, section: HealthSection, always: bool = False) -> None:
        self.section = section
        self._always = always
        self.listening = always
        self.num_bad_windows = 0
        self._blocks = dict(watched_blocks(model)) if section.watch else {}
        self._pool = section.watch and isinstance(getattr(model, "pool", None), nn.Module)
        self._zeros: Tensor | None = None
        # Every name from the beginning: for torch.compile another set of keys would be another graph.
        self._scales: dict[str, Tensor | None] = dict.fromkeys(self._blocks)
        for name, block in self._blocks.items():
            block.register_forward_hook(self._record_scale(name))
        if self._pool:
            model.pool.register_forward_pre_hook(self._record_zeros)  # type: ignore[union-attr]

    def _record_scale(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.listening and isinstance(output, Tensor):
                # In fp32: the squares of bf16 activations would overflow its few digits, not its range.
                norm = torch.linalg.vector_norm(output.detach(), dtype=torch.float32)
                self._scales[name] = norm / math.sqrt(output.numel())

        return hook

    def _record_zeros(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.listening:
            values = inputs[0].detach()
            self._zeros = 1.0 - torch.count_nonzero(values).float() / values.numel()

    def listen(self, wanted: bool) -> None:
        """Whether the pass that comes is wanted."""
        self.listening = wanted or self._always

    def numbers(self) -> list[Tensor]:
        """What the last pass listened to showed, one number a tensor, on the device; the order is that of `health`."""
        zeros = [] if self._zeros is None else [self._zeros]
        return [*zeros, *(scale for scale in self._scales.values() if scale is not None)]

    def health(self, numbers: list[float]) -> Health:
        """`numbers` read from the device (and averaged over the ranks)."""
        left = list(numbers)
        zero_share = None if self._zeros is None else left.pop(0)
        names = [name for name, scale in self._scales.items() if scale is not None]
        return Health(zero_share, dict(zip(names, left, strict=True)))

    def judge(self, health: Health) -> bool:
        """Count a window; whether the network is dead by now: too many zeros in so many windows in succession."""
        bad = health.zero_share is not None and health.zero_share > self.section.max_zero_share
        self.num_bad_windows = self.num_bad_windows + 1 if bad and self.section.stop_when_dead else 0
        return self.num_bad_windows >= self.section.patience_windows

    @property
    def suspects(self) -> bool:
        """Whether the last window looked dead: what is saved now may be worthless."""
        return self.num_bad_windows > 0


def watched_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The stages of a network that lie before its pool, by name; of a stage that is a row of blocks, each block."""
    for stage in getattr(model, "STAGES", ()):
        if stage.module in ("pool", "classifier"):
            return
        module = model.get_submodule(stage.module)
        if isinstance(module, nn.Sequential):
            yield from ((f"{stage.module}.{name}", block) for name, block in module.named_children())
        else:
            yield stage.module, module


@torch.no_grad()
def largest_value(model: nn.Module) -> Tensor:
    """The largest of all weights and statistics by magnitude, fp32 []; not finite as soon as one of them is not. No wait for the device."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    # Of the ways to ask this the quickest on a CPU: 9 ms for Inception-v4; the maximum norm takes 115.
    return torch.stack([bound for value in values for bound in torch.aminmax(value)]).abs().max().float()


def remedy(model: nn.Module) -> str:
    """What helps most likely, for a hint: the paper's section 3.3 for residuals that are not scaled down, else the usual."""
    # The last block of TF-slim's v2 adds its residual unscaled by design: it has no ReLU that could die.
    scales = {block.scale for block in model.modules() if isinstance(block, ResidualBlock) and isinstance(block.act, nn.ReLU)}
    if scales and max(scales) > LARGEST_SAFE_SCALE:
        return (
            f"scale the residuals down to between 0.1 and 0.3 (the paper's section 3.3): they are at {max(scales):g};"
            " model.residual_scale=null takes 0.17, 0.1 and 0.2"
        )
    return (
        "lower schedule.base_lr, add schedule.warmup_epochs or set optim.clip_global_norm;"
        " train.precision=fp32 tells whether it is rounding"
    )
