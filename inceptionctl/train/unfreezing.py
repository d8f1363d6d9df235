"""Which blocks are trained when: `model.freeze` and `model.unfreeze`. What is trained in a step depends on the step alone.

Stage 0 are the blocks that are trained from the start, stage k those that the k-th epoch of `model.unfreeze` adds. The optimizer has
parameter groups of its own for each stage: those of later ones are left out of its steps and have no state. So a checkpoint of any step
holds the state that an uninterrupted run has there, whether it is loaded before, at or after an epoch of `model.unfreeze`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.recipe.model_section import EPOCH_ROUNDING, ModelSection
from inceptionctl.recipe.variants import Optim
from inceptionctl.train.fine_tuning import block_problem, freeze
from inceptionctl.train.optim import parameter_groups

NEVER = math.inf  # as a stage


class TrainedBlocks:
    """The blocks of a network that are trained at a `stage`; the others have no gradients and belong in evaluation mode."""

    def __init__(self, model: nn.Module, section: ModelSection) -> None:
        """Begin with stage 0. Raises RecipeError for blocks that the network lacks, and for those to unfreeze that are not frozen."""
        freeze(model, section.freeze)
        for message, hint in unfreezing_problems(model, section):
            raise RecipeError(message, hint)
        self.epochs = [*(section.unfreeze or {})]
        self.stage = 0
        self._model = model
        self._stages = _stages(model, section)

    @property
    def last_stage(self) -> int:
        """With everything that is ever trained."""
        return len(self.epochs)

    def stage_in(self, epoch: float) -> int:
        """The stage of a step that begins at an epoch, a fraction in general."""
        return sum(begin <= epoch + EPOCH_ROUNDING for begin in self.epochs)

    def first_trained_in(self, stage: float) -> list[nn.Module]:
        """Modules of one stage other than 0, or of NEVER; of each module itself without its children."""
        return [module for module, own in self._stages.items() if own == stage]

    def enter(self, stage: int) -> None:
        """Take gradients of the blocks up to this stage, and of no others."""
        self.stage = stage
        for module, own in self._stages.items():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(own <= stage)
                weight.grad = None

    def set_modes(self) -> None:
        """Training mode for the network, evaluation mode for what is frozen."""
        self._model.train()
        for module, own in self._stages.items():
            module.training = own <= self.stage

    def add_groups(self, optimizer: torch.optim.Optimizer, optim: Optim) -> None:
        """Add groups for the later stages to the optimizer of stage 0, which leaves them out of its steps until then.

        Afterwards everything that is ever trained has a gradient, as DeepSpeed wants to see it once; `enter` says what is trained first.
        """
        begins = [weight for weight in self._model.parameters() if weight.requires_grad]
        for stage in range(1, self.last_stage + 1):
            self._model.requires_grad_(False)
            for module in self.first_trained_in(stage):
                for weight in module.parameters(recurse=False):
                    weight.requires_grad_(True)
            for group in parameter_groups(self._model, optim):
                optimizer.add_param_group({**group, "stage": stage})
        if self.last_stage:
            for weight in begins:
                weight.requires_grad_(True)
            self.enter(self.last_stage)
            optimizer.register_step_pre_hook(self._leave_out)
            optimizer.register_step_post_hook(self._forget_counts)

    def _later(self, optimizer: torch.optim.Optimizer) -> Iterator[dict[str, Any]]:
        return (group for group in optimizer.param_groups if group.get("stage", 0) > self.stage)

    def _leave_out(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # ZeRO gives them gradients of zero, which weight decay and momentum would make something of.
        for group in self._later(optimizer):
            for weight in group["params"]:
                weight.grad = None

    def _forget_counts(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # LAMB counts the steps of a group, whether it has gradients or not.
        for group in self._later(optimizer):
            group.pop("step", None)


def _stages(model: nn.Module, section: ModelSection) -> dict[nn.Module, float]:
    """The stage of each module that is not trained from the start."""
    stages: dict[nn.Module, float] = {}
    for stage, blocks in [(NEVER, section.freeze), *enumerate((section.unfreeze or {}).values(), 1)]:
        frozen = _inside(model, blocks)
        stages |= {module: stage for module in frozen if stage == NEVER or stages.get(module) == NEVER}
    return stages


def _inside(model: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    modules = dict(model.named_modules())
    return [module for name in blocks for module in modules[name].modules()]


def unfreezing_problems(model: nn.Module, section: ModelSection, epochs: float = math.inf) -> list[tuple[str, str]]:
    """What is wrong with `model.unfreeze` for a network and a training of so many epochs: messages and hints."""
    known = dict(model.named_modules())
    frozen = set(_inside(model, [name for name in section.freeze if name in known]))
    found = []
    for epoch, blocks in (section.unfreeze or {}).items():
        if epoch >= epochs:
            late = f"model.unfreeze: epoch {epoch:g} is not below train.epochs {epochs:g}: {', '.join(blocks)} would never be trained"
            found.append((late, "take the epoch out, or lower it"))
        if problem := block_problem(model, blocks, "model.unfreeze"):
            found.append(problem)
        for name in (name for name in blocks if name in known):
            own = set(known[name].modules())
            if not own & frozen:
                names = ", ".join(section.freeze) or "nothing"
                found.append((f"model.unfreeze: {name} is not frozen when epoch {epoch:g} begins", f"model.freeze has {names}"))
            frozen -= own
    return found
