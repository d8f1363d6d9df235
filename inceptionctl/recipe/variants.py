"""The sections of a recipe whose keys depend on their `name`: optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from inceptionctl.section import Section

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
# Keys that several sections have.
Betas = Annotated[
    tuple[Decay, Decay], Field(strict=False, description="Decay rates of the running means of the gradient and of its square.")
]
L2 = Annotated[float, Field(ge=0.0, description="L2 weight decay, added to the gradient (not for norms and biases).")]
ClipGlobalNorm = Annotated[
    float | None, Field(ge=0.0, description="Clip the global gradient norm to this; 0 disables clipping, null uses `clip_agc`.")
]
ClipAgc = Annotated[
    float,
    Field(
        ge=0.0,
        description="Adaptive gradient clipping (AGC): clip each tensor's gradient norm to this fraction of its weight norm; 0 disables it.",
    ),
]
LrDecay = Annotated[
    float,
    Field(
        gt=0.0,
        le=1.0,
        description="Layer-wise learning-rate decay: factor from each block to the one before it, for fine-tuning.",
    ),
]
HeadFactor = Annotated[
    float, Field(gt=0.0, description="Factor on the learning rate of the classifier and the auxiliary head, for fine-tuning.")
]
WarmupEpochs = Annotated[float, Field(ge=0.0, description="Linear warm-up from zero over this many epochs; 0 for none.")]
WarmupFactor = Annotated[
    float | None,
    Field(
        gt=0.0,
        lt=1.0,
        description="Constant warm-up: this fraction of the scheduled rate throughout the warm-up (He et al. 2015), instead of a linear rise.",
    ),
]


class RmsPropSection(Section):
    """RMSProp as in TensorFlow: epsilon inside the square root, mean square initialized to one."""

    name: Literal["rmsprop"] = "rmsprop"
    """TensorFlow's RMSProp (the paper's final training)."""
    decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the running mean of squared gradients."""
    epsilon: float = Field(default=1.0, gt=0.0)
    """Added to the mean square inside the square root."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum of the scaled gradient; 0 for none."""
    centered: bool = False
    """Centered RMSProp: normalize by the variance of the gradient instead of its mean square."""
    weight_decay: L2 = 4e-5
    clip_global_norm: ClipGlobalNorm = None
    clip_agc: ClipAgc = 0.2
    lr_decay_by_block: LrDecay = 1.0
    head_lr_factor: HeadFactor = 1.0


class SgdSection(Section):
    """Stochastic gradient descent with momentum (the paper's earlier runs)."""

    name: Literal["sgd"]
    """SGD with momentum."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum; 0 for none."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: L2 = 4e-5
    clip_global_norm: ClipGlobalNorm = None
    clip_agc: ClipAgc = 0.2
    lr_decay_by_block: LrDecay = 1.0
    head_lr_factor: HeadFactor = 1.0


class AdamWSection(Section):
    """AdamW of torch. Not from the paper."""

    name: Literal["adamw"]
    """Adam with decoupled weight decay."""
    betas: Betas = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Added to the square root of the mean square."""
    weight_decay: float = Field(default=0.05, ge=0.0)
    """Decoupled weight decay, multiplied by the learning rate (not for norms and biases)."""
    clip_global_norm: ClipGlobalNorm = None
    clip_agc: ClipAgc = 0.2
    lr_decay_by_block: LrDecay = 1.0
    head_lr_factor: HeadFactor = 1.0


class LambSection(Section):
    """LAMB for large batches, from timm (`pip install timm`). Not from the paper."""

    name: Literal["lamb"]
    """Adam's update, scaled to the norm of each weight tensor."""
    betas: Betas = (0.9, 0.999)
    epsilon: float = Field(default=1e-6, gt=0.0)
    """Added to the square root of the mean square."""
    weight_decay: float = Field(default=0.02, ge=0.0)
    """Weight decay, added to the update before scaling (not for norms and biases)."""
    clip_global_norm: ClipGlobalNorm = None
    clip_agc: ClipAgc = 0.2
    lr_decay_by_block: LrDecay = 1.0
    head_lr_factor: HeadFactor = 1.0


class StaircaseSection(Section):
    """The paper's schedule, step decay: multiplies the learning rate by `factor` every `every_epochs`."""

    name: Literal["staircase"] = "staircase"
    """Step decay."""
    base_lr: float = Field(default=0.045, gt=0.0)
    """Initial learning rate, after the warm-up."""
    factor: float = Field(default=0.94, gt=0.0, le=1.0)
    """Decay factor."""
    every_epochs: float = Field(default=2.0, gt=0.0)
    """Epochs between decays."""
    warmup_epochs: WarmupEpochs = 0.0
    warmup_factor: WarmupFactor = None


class ConstantSection(Section):
    """Constant learning rate."""

    name: Literal["constant"]
    """No decay."""
    base_lr: float = Field(gt=0.0)
    """The learning rate."""
    warmup_epochs: WarmupEpochs = 0.0
    warmup_factor: WarmupFactor = None


class CosineSection(Section):
    """Half a cosine from `base_lr` to `final_lr` over the whole training, or one every `cycle_epochs` (SGDR)."""

    name: Literal["cosine"]
    """Cosine decay."""
    base_lr: float = Field(gt=0.0)
    """Peak learning rate, after the warm-up."""
    final_lr: float = Field(default=0.0, ge=0.0)
    """Learning rate at the end."""
    cycle_epochs: float | None = Field(default=None, gt=0.0)
    """Length of a cycle; the rate restarts at `base_lr` after each. null: one cycle over the whole training."""
    warmup_epochs: WarmupEpochs = 0.0
    warmup_factor: WarmupFactor = None


class OneCycleSection(Section):
    """One cycle (Smith and Topin 2018): half a cosine up to `base_lr`, and half a cosine down to `final_lr`."""

    name: Literal["one_cycle"]
    """Up and down once."""
    base_lr: float = Field(gt=0.0)
    """Learning rate at the top."""
    initial_lr: float = Field(default=0.0, ge=0.0)
    """Learning rate of the first step."""
    final_lr: float = Field(default=0.0, ge=0.0)
    """Learning rate at the end."""
    rise: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Fraction of the training in which the rate rises."""
    warmup_epochs: ClassVar[float] = 0.0
    warmup_factor: ClassVar[float | None] = None


class PolynomialSection(Section):
    """From `base_lr` to `final_lr` as a power of what is left of the training."""

    name: Literal["polynomial"]
    """Polynomial decay."""
    base_lr: float = Field(gt=0.0)
    """Learning rate at the top, after the warm-up."""
    final_lr: float = Field(default=0.0, ge=0.0)
    """Learning rate at the end."""
    power: float = Field(default=1.0, gt=0.0)
    """1 is a straight line."""
    warmup_epochs: WarmupEpochs = 0.0
    warmup_factor: WarmupFactor = None


Optim = Annotated[RmsPropSection | SgdSection | AdamWSection | LambSection, Field(discriminator="name")]
Schedule = Annotated[
    StaircaseSection | ConstantSection | CosineSection | OneCycleSection | PolynomialSection, Field(discriminator="name")
]

# Sections whose keys depend on their `name`: a recipe that extends another and changes the name resets the section.
VARIANTS: dict[str, dict[str, type[Section]]] = {
    "optim": {"rmsprop": RmsPropSection, "sgd": SgdSection, "adamw": AdamWSection, "lamb": LambSection},
    "schedule": {
        **{"staircase": StaircaseSection, "constant": ConstantSection, "cosine": CosineSection},
        **{"one_cycle": OneCycleSection, "polynomial": PolynomialSection},
    },
}
