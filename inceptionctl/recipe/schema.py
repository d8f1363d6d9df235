"""What a recipe may say: one class a section, one docstring a key. Unknown keys are forbidden; units are in the names.

Every value has a type and bounds here and nowhere else. `Recipe` is what the rest of the program reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inceptionctl.models import MODELS, NetworkArguments, hint_of_name, is_timm, option_problem
from inceptionctl.recipe.data_section import DataSection, Filter, expanded
from inceptionctl.recipe.variants import Optim, RmsPropSection, Schedule, StaircaseSection
from inceptionctl.section import Section, Tree


class ModelSection(Section):
    """The network (`inceptionctl models list` names them all)."""

    name: str = "inception_v4"
    """A name from `inceptionctl models list`, or `timm/NAME` for a network of timm, where that is installed."""
    num_classes: int = Field(default=1000, ge=2)
    """Number of classes; must equal the class folders of the data set."""
    input_px: int = Field(default=299, ge=32)
    """Side of the square input in pixels."""
    width: float = Field(default=1.0, gt=0.0, le=4.0)
    """Factor on every channel count (rounded to multiples of 8). 1.0 is the paper's network."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Probability of dropping a feature before the classifier (the paper keeps 0.8)."""
    batch_norm_momentum: float = Field(default=3e-4, gt=0.0, le=1.0)
    """Share of a micro batch in the running statistics, on any number of ranks: 1 - TensorFlow's decay. Short runs want 0.01 to 0.1."""
    batch_norm_eps: float = Field(default=1e-3, gt=0.0)
    """Added to the variance in batch norm."""
    aux_head: bool | None = None
    """Train with the auxiliary head; null takes it where the network's own paper does (the Inception-v3 family)."""
    residual_scale: float | tuple[float, float, float] | None = None
    """Factor on the residuals of an Inception-ResNet, or three for its three grids; 1.0 switches it off; null is (0.17, 0.10, 0.20)."""
    residual_unit: Literal["original", "bottleneck"] | None = None
    """Unit of a ResNet: two 3x3 convolutions, or the 1x1 bottleneck; null is the paper's, `original` below 50 layers."""
    init_from: str | None = None
    """Start with the weights of this run, checkpoint or safetensors export; the classifier is new where the classes differ in number."""
    freeze: list[str] = Field(default=[])
    """Blocks that keep their weights and statistics, by name: `stem`, `blocks_a.0` (`inceptionctl models show NAME`)."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MODELS and not is_timm(name):
            raise PydanticCustomError(
                "rule_with_hint", "{message}", {"message": f"'{name}' is not a network", "hint": hint_of_name(name)}
            )
        return name

    @field_validator("residual_scale", mode="before")
    @classmethod
    def _scales(cls, value: Any) -> Any:
        scales = value if isinstance(value, list | tuple) else [1.0 if value is None else value]
        numbers = all(isinstance(scale, int | float) and not isinstance(scale, bool) and 0.0 < scale <= 1.0 for scale in scales)
        if not numbers or (scales is value and len(scales) != 3):
            raise ValueError(f"{value!r} is neither a number above 0 and up to 1 nor a list of three, one for each grid")
        return tuple(map(float, scales)) if scales is value else value

    @model_validator(mode="after")
    def _options_of_the_network(self) -> Self:
        problem = option_problem(
            self.name,
            width=self.width,
            input_px=self.input_px,
            aux_head=self.aux_head,
            residual_scale=self.residual_scale,
            residual_unit=self.residual_unit,
        )
        if problem:
            message, hint = problem
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})
        return self

    def network(self) -> NetworkArguments:
        """Arguments of `models.build_model`: this section less what is done to a network once it is built."""
        return cast(NetworkArguments, self.model_dump(exclude={"init_from", "freeze"}))


class TrainSection(Section):
    """Length, batch, precision and averages of the training."""

    epochs: float = Field(default=100.0, gt=0.0)
    """Passes over the training images."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps, if that is sooner; null for no limit. The schedule still spans `epochs`."""
    global_batch_size: int = Field(default=640, ge=1)
    """Images of one optimizer step over all ranks. Stays the same when the number of ranks changes."""
    micro_batch_size: int = Field(default=32, ge=1)
    """Most images a rank takes through the network at once; the largest divisor of its share up to this is used."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of weights, sample order, augmentation and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; `auto` takes it where the processor computes it natively."""
    tf32: bool = False
    """Whether GPUs may compute fp32 products and convolutions in TF32, which is faster and rounds to 10 bits; without effect on CPUs."""
    zero_stage: Literal[0, 1] = 0
    """1: each rank holds a part of the optimizer's state (DeepSpeed's ZeRO), to save memory; may change from start to start."""
    channels_last: bool = True
    """Memory format of activations and convolution weights."""
    compile: Literal["none", "blocks", "network"] = "none"
    """torch.compile: `blocks` compiles block by block, once for blocks that are alike; `network` all of it. The first step takes minutes."""
    compile_mode: Literal["default", "max-autotune"] = "default"
    """`max-autotune` tries more kernels for each layer, on GPUs, and takes much longer to begin."""
    cudnn_benchmark: bool = False
    """On GPUs cuDNN tries its algorithms for each convolution and takes the fastest, which another start may find to be another one."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the target spread evenly over all classes."""
    aux_loss_weight: float = Field(default=0.4, ge=0.0)
    """Weight of the auxiliary head's loss, where the network has one."""
    ema_decay: float = Field(default=0.9999, ge=0.0, lt=1.0)
    """Decay of the running average of the weights, with the warm-up min(d, (1 + n) / (10 + n))."""
    log_every_steps: int = Field(default=20, ge=1)
    """Length of a log window; the only place where the host waits for the device."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """What a loss or gradient that is not finite, or a dead network, does: `stop` ends the run with exit code 6; `rollback` goes back
    to the last good checkpoint and skips the batches since then."""
    max_rollbacks: int = Field(default=3, ge=1)
    """Most rollbacks in a run; the next divergence ends it with exit code 6."""
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0)
    """After waiting so long for another rank, at the start or in a step, the run ends with exit code 4."""


class EvaluateSection(Section):
    """Validation during and after the training."""

    every_epochs: float | None = Field(default=1.0, gt=0.0)
    """Validate the EMA weights this often while training; null only at the end."""
    batch_size: int = Field(default=64, ge=1)
    """Images a rank takes through the network at once."""
    central_fraction: float = Field(default=0.875, gt=0.0, le=1.0)
    """Share of each side that the central crop keeps (timm's crop_pct)."""
    keep_aspect: bool = False
    """false: the crop is squashed to the square, as TF-slim; true: the shorter side is resized to input_px / central_fraction and
    the middle square taken, as timm."""
    interpolation: Filter = "bilinear"
    """How images are resized."""
    antialias: bool = False
    """Whether the filter widens where an image shrinks: Pillow's and timm's do, TensorFlow 1's do not."""
    subset: Literal["all", "non-blacklisted"] = "all"
    """Validation images while training: `non-blacklisted` leaves out those that ImageNet's development kit lists, as the paper's curves do."""
    blacklist: str | None = None
    """The development kit's list; null looks for it in `data.root`."""

    @property
    def blacklist_path(self) -> Path | None:
        """`blacklist`, with ~ for the home directory."""
        return expanded(self.blacklist) if self.blacklist else None


class CheckpointSection(Section):
    """When to save and what to keep."""

    every_epochs: float | None = Field(default=1.0, gt=0.0)
    """Save this often, in epochs; null for not."""
    every_steps: int | None = Field(default=None, ge=1)
    """Save this often, in optimizer steps; null for not. May be given beside `every_epochs`."""
    keep_last: int = Field(default=3, ge=1)
    """Number of newest checkpoints to keep."""
    keep_best: bool = True
    """Also keep the best checkpoint of all validations."""
    best_by: Literal["top1_error", "top5_error", "loss"] = "top1_error"
    """The best is the one with the lowest of this."""
    keep_every_epochs: float | None = Field(default=None, gt=0.0)
    """Keep for good the first checkpoint at or after every so many epochs; null for none."""
    on_write_error: Literal["stop", "continue"] = "stop"
    """When a disk refuses a checkpoint: `stop` ends the run with exit code 4; `continue` says so, keeps the checkpoint before, and tries
    again at the next save; the run then ends with code 4 only if its last save failed."""


class ExportSection(Section):
    """What `inceptionctl export` writes when no format is named, and what its model card says."""

    formats: list[Literal["onnx", "safetensors", "pt2", "timm", "torchscript", "triton"]] = Field(
        default=["onnx", "safetensors"], min_length=1
    )
    """File formats."""
    license: str | None = None
    """Licence of the weights for the model card, as an SPDX name: apache-2.0; null says that none was given."""
    data_license: str | None = None
    """Licence of the data set in `data.root` for the model card, in words; forgotten where another file or `--set` names another root."""


class HealthSection(Section):
    """The watch for a network that dies or diverges (section 3.3 of the paper): looked at when a row of metrics is written."""

    watch: bool = True
    """Measure the share of zeros before the average pool and the scale of each block's activations."""
    stop_when_dead: bool = True
    """Take a dead network for a diverged training (`train.on_divergence`); a loss or gradient that is not finite always is one."""
    max_zero_share: float = Field(default=0.999, gt=0.0, le=1.0)
    """Dead is a network with a larger share of zeros than this before the average pool."""
    patience_windows: int = Field(default=3, ge=1)
    """... in so many rows in succession. Nothing is saved meanwhile, so that the last checkpoint is a good one."""


class Recipe(Section):
    """A whole training: everything that a run depends on, and nothing else."""

    model: ModelSection = ModelSection()
    """The network."""
    data: DataSection = DataSection()
    """The images."""
    optim: Optim = RmsPropSection()
    """The optimizer."""
    schedule: Schedule = StaircaseSection()
    """The learning rate."""
    train: TrainSection = TrainSection()
    """The training."""
    evaluate: EvaluateSection = EvaluateSection()
    """The validation."""
    checkpoint: CheckpointSection = CheckpointSection()
    """The checkpoints."""
    health: HealthSection = HealthSection()
    """The watch."""
    export: ExportSection = ExportSection()
    """The exports."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.schedule.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} must be shorter than train.epochs {self.train.epochs:g}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_wait_for_images(self) -> Self:
        ranks, image = self.train.collective_timeout_seconds, self.data.read_timeout_seconds
        if ranks <= image:
            raise PydanticCustomError(
                "rule_with_hint",
                "{message}",
                {
                    "message": f"train.collective_timeout_seconds {ranks:g} must be longer than data.read_timeout_seconds {image:g}",
                    "hint": "while one rank waits for an image, the others wait for that rank; several times as long is better",
                },
            )
        return self

    @model_validator(mode="after")
    def _optimizer_can_be_partitioned(self) -> Self:
        if self.train.zero_stage and self.optim.name == "lamb":
            message = "optim.name lamb cannot be used with train.zero_stage 1: it scales by the norms of whole weight tensors"
            hint = "set train.zero_stage to 0, or optim.name to rmsprop, sgd or adamw"
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})
        return self

    def resolved(self) -> Tree:
        """All keys, defaults included, as plain JSON values in reading order."""
        return self.model_dump(mode="json")


# What may differ between a run and its continuation: where things are and how they are reported, never what is computed.
FREE_TO_CHANGE = frozenset(
    {
        "data.root",
        "data.format",
        "data.val_labels",
        "data.decode",
        "data.num_threads",
        "data.max_bad_images",
        "data.read_timeout_seconds",
        "train.epochs",
        "train.max_steps",
        "train.micro_batch_size",
        "train.zero_stage",
        "train.compile",
        "train.compile_mode",
        "train.cudnn_benchmark",
        "train.log_every_steps",
        "train.on_divergence",
        "train.max_rollbacks",
        "train.collective_timeout_seconds",
        "evaluate",
        "checkpoint",
        "health",
        "export",
    }
)


def flatten(tree: Tree, prefix: str = "") -> Tree:
    """Nested sections as dotted keys: {'optim': {'name': 'sgd'}} -> {'optim.name': 'sgd'}."""
    flat: Tree = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def binding(tree: Tree) -> Tree:
    """The dotted keys of a resolved recipe that a continued run must share with its beginning."""
    return {
        key: value
        for key, value in flatten(tree).items()
        if key not in FREE_TO_CHANGE and key.split(".")[0] not in FREE_TO_CHANGE
    }
