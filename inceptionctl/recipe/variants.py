"""The sections of a recipe whose keys depend on their `name`: optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inceptionctl.section import Section

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = Annotated[tuple[Decay, Decay], Field(strict=False)]


class RmsPropSection(Section):
    """RMSProp in TensorFlow's form: epsilon inside the square root, mean square starting at one."""

    name: Literal["rmsprop"] = "rmsprop"
    """TensorFlow's RMSProp (the paper's final training)."""
    decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the running mean of squared gradients."""
    epsilon: float = Field(default=1.0, gt=0.0)
    """Added to the mean square inside the root."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum on the scaled gradient; 0 for none."""
    centered: bool = False
    """Subtract the square of the mean gradient from the mean square: the centered form."""
    weight_decay: float = Field(default=4e-5, ge=0.0)
    """L2 penalty added to the gradient of weights (not of norms and biases)."""
    clip_global_norm: float | None = Field(default=None, ge=0.0)
    """Largest global norm of the gradient; 0 clips nothing, null clips by `clip_agc`."""
    clip_agc: float = Field(default=0.2, ge=0.0)
    """Adaptive gradient clipping: the gradient of each tensor has at most this times the norm of its weights; 0 clips nothing."""


class SgdSection(Section):
    """Stochastic gradient descent with momentum (the paper's earlier runs)."""

    name: Literal["sgd"]
    """SGD with momentum."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: float = Field(default=4e-5, ge=0.0)
    """L2 penalty added to the gradient of weights (not of norms and biases)."""
    clip_global_norm: float | None = Field(default=None, ge=0.0)
    """Largest global norm of the gradient; 0 clips nothing, null clips by `clip_agc`."""
    clip_agc: float = Field(default=0.2, ge=0.0)
    """Adaptive gradient clipping: the gradient of each tensor has at most this times the norm of its weights; 0 clips nothing."""


class AdamWSection(Section):
    """AdamW, torch's: weight decay apart from the gradient. Not of the paper."""

    name: Literal["adamw"]
    """Adam with decoupled weight decay."""
    betas: Betas = (0.9, 0.999)
    """Decays of the running means of the gradient and of its square."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the mean square."""
    weight_decay: float = Field(default=0.05, ge=0.0)
    """Share of a weight, times the learning rate, taken off it in a step (not of norms and biases)."""
    clip_global_norm: float | None = Field(default=None, ge=0.0)
    """Largest global norm of the gradient; 0 clips nothing, null clips by `clip_agc`."""
    clip_agc: float = Field(default=0.2, ge=0.0)
    """Adaptive gradient clipping: the gradient of each tensor has at most this times the norm of its weights; 0 clips nothing."""


class LambSection(Section):
    """LAMB for large batches, timm's (`pip install timm`). Not of the paper."""

    name: Literal["lamb"]
    """Adam's direction, scaled to the norm of each weight tensor."""
    betas: Betas = (0.9, 0.999)
    """Decays of the running means of the gradient and of its square."""
    epsilon: float = Field(default=1e-6, gt=0.0)
    """Added to the root of the mean square."""
    weight_decay: float = Field(default=0.02, ge=0.0)
    """Share of a weight added to its direction (not of norms and biases)."""
    clip_global_norm: float | None = Field(default=None, ge=0.0)
    """Largest global norm of the gradient; 0 clips nothing, null clips by `clip_agc`."""
    clip_agc: float = Field(default=0.2, ge=0.0)
    """Adaptive gradient clipping: the gradient of each tensor has at most this times the norm of its weights; 0 clips nothing."""


class StaircaseSection(Section):
    """The paper's schedule: times `factor` every `every_epochs`."""

    name: Literal["staircase"] = "staircase"
    """Exponential decay in steps."""
    base_lr: float = Field(default=0.045, gt=0.0)
    """Learning rate of the first stair."""
    factor: float = Field(default=0.94, gt=0.0, le=1.0)
    """Factor from stair to stair."""
    every_epochs: float = Field(default=2.0, gt=0.0)
    """Length of a stair in epochs."""
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Linear rise from zero over this many epochs; 0 for none."""


class ConstantSection(Section):
    """One learning rate throughout."""

    name: Literal["constant"]
    """No decay."""
    base_lr: float = Field(gt=0.0)
    """The learning rate."""
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Linear rise from zero over this many epochs; 0 for none."""


class CosineSection(Section):
    """Half a cosine from `base_lr` to `final_lr` over the whole training."""

    name: Literal["cosine"]
    """Cosine decay."""
    base_lr: float = Field(gt=0.0)
    """Learning rate at the top, after the warm-up."""
    final_lr: float = Field(default=0.0, ge=0.0)
    """Learning rate at the end."""
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Linear rise from zero over this many epochs; 0 for none."""


Optim = Annotated[RmsPropSection | SgdSection | AdamWSection | LambSection, Field(discriminator="name")]
Schedule = Annotated[StaircaseSection | ConstantSection | CosineSection, Field(discriminator="name")]

# Sections whose keys depend on their `name`: a recipe that extends another and changes the name starts the section anew.
VARIANTS: dict[str, dict[str, type[Section]]] = {
    "optim": {"rmsprop": RmsPropSection, "sgd": SgdSection, "adamw": AdamWSection, "lamb": LambSection},
    "schedule": {"staircase": StaircaseSection, "constant": ConstantSection, "cosine": CosineSection},
}
