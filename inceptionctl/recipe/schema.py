"""The keys of a recipe: one class per section, one docstring per key. Unknown keys are forbidden; units are in the names.

Every value has a type and bounds here and nowhere else. `Recipe` is what the rest of the program reads.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inceptionctl.recipe.data_section import DataSection, Filter, expanded, repeats_problem
from inceptionctl.recipe.image_sizes import PxByEpoch, size_problem
from inceptionctl.recipe.log_section import LogSection
from inceptionctl.recipe.model_section import ASSUMED_CLASSES, AUTO_CLASSES, ModelSection
from inceptionctl.recipe.variants import Optim, RmsPropSection, Schedule, StaircaseSection
from inceptionctl.section import Section, Tree


class StopWhenSection(Section):
    """Early stopping, decided after each validation."""

    metric: Literal["top1_error", "loss"] = "top1_error"
    """Validation metric to watch; lower is better."""
    patience_epochs: float | None = Field(default=None, gt=0.0)
    """Stop if the metric has reached no new minimum for this many epochs; null trains to the end."""


class TrainSection(Section):
    """Length, batch size, precision, loss and EMA of the training."""

    epochs: float = Field(default=100.0, gt=0.0)
    """Number of passes over the training images."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps if that comes first; null for no limit. The schedule still spans `epochs`."""
    stop_when: StopWhenSection = StopWhenSection()
    """Early stopping."""
    progressive_resizing: PxByEpoch | None = None
    """Size of the training images from an epoch on, `{EPOCH: PX}`; null, and earlier epochs, take model.input_px, as validations do."""
    global_batch_size: int = Field(default=640, ge=1)
    """Images per optimizer step over all ranks, independent of the number of ranks."""
    micro_batch_size: int = Field(default=32, ge=1)
    """Upper limit of the images per forward pass of a rank; the largest divisor of the rank's share of the batch up to this is used."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of weight initialization, sample order, augmentation and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` is autocast with fp32 weights; `auto` is bf16 where the hardware supports it natively, else fp32."""
    tf32: bool = False
    """Allow TF32 for fp32 matrix products and convolutions on GPUs: faster, with a mantissa of 10 bits. No effect on CPUs."""
    zero_stage: Literal[0, 1] = 0
    """DeepSpeed's ZeRO stage: 1 shards the optimizer state over the ranks to save memory. May change when a run is resumed."""
    channels_last: bool = True
    """Use the channels_last memory format for activations and convolution weights."""
    compile: Literal["none", "blocks", "network"] = "none"
    """torch.compile: `blocks` compiles each distinct block once, `network` the whole network. The first step takes minutes."""
    compile_mode: Literal["default", "max-autotune"] = "default"
    """Mode of torch.compile: `max-autotune` benchmarks more kernels per layer on GPUs and takes much longer to start."""
    cudnn_benchmark: bool = False
    """cuDNN benchmarks its convolution algorithms on GPUs and picks the fastest, which may differ from start to start."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy, or binary cross entropy of each class (`bce`), the mean over classes as timm's `--bce-loss`."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Label smoothing: fraction of the target spread evenly over all classes."""
    class_weights: Literal["balanced"] | list[float] | None = None
    """Weights of the classes in the training loss: `balanced` (n / (classes * images of the class), as scikit-learn), or a list, one
    per class; null for none. Validation losses are never weighted."""
    aux_loss_weight: float = Field(default=0.4, ge=0.0)
    """Weight of the auxiliary head's loss, if the network has one."""
    ema_decay: float = Field(default=0.9999, ge=0.0, lt=1.0)
    """Decay of the EMA of the weights, warmed up as min(decay, (1 + n) / (10 + n)) over n updates."""
    log_every_steps: int = Field(default=20, ge=1)
    """Steps between rows of metrics; only then does the host wait for the device."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """What happens on a non-finite loss or gradient, or a dead network: `stop` ends the run with exit code 6; `rollback` returns
    to the last good checkpoint and skips the batches since then."""
    max_rollbacks: int = Field(default=3, ge=1)
    """Limit of rollbacks in a run; the next divergence ends it with exit code 6."""
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Timeout for other ranks, at the start or in a step; then the run ends with exit code 4."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        if value is None or value == "balanced":
            return value
        numbers = isinstance(value, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
        if not (numbers and all(0.0 < one < math.inf for one in value)):
            message = f"class_weights {value!r} is neither `balanced` nor a list of positive numbers, one per class"
            hint = "use `balanced`, or for three classes [1.0, 2.5, 0.5]"
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})
        return [float(one) for one in value]


class EvaluateSection(Section):
    """Validation during and after the training."""

    every_epochs: float | None = Field(default=1.0, gt=0.0)
    """Epochs between validations of the EMA weights; null validates only at the end."""
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass of a rank."""
    central_fraction: float = Field(default=0.875, gt=0.0, le=1.0)
    """Fraction of each side that the center crop keeps (timm's crop_pct)."""
    keep_aspect: bool = False
    """false: crop, then resize to the square without keeping the aspect ratio, as in TF-slim. true: resize the shorter side to
    input_px / central_fraction and take the center crop, as in timm."""
    interpolation: Filter = "bilinear"
    """Interpolation of the resize."""
    antialias: bool = False
    """Antialias when downsampling, as Pillow and timm do; TensorFlow 1 does not."""
    checkpoint: Literal["best", "latest"] = "best"
    """Checkpoint of the run that `evaluate`, `predict`, `export`, `ensemble` and `report` use by default: the best, if one is kept, or the
    newest."""
    subset: Literal["all", "non-blacklisted"] = "all"
    """Validation images during training: `non-blacklisted` leaves out ImageNet's blacklist, as the paper's curves do."""
    blacklist: str | None = None
    """ImageNet's blacklist, from the development kit; null looks for it in `data.root`."""

    @property
    def blacklist_path(self) -> Path | None:
        """`blacklist`, with ~ for the home directory."""
        return expanded(self.blacklist) if self.blacklist else None


class CheckpointSection(Section):
    """When to save and what to keep."""

    every_epochs: float | None = Field(default=1.0, gt=0.0)
    """Epochs between checkpoints; null for none by epochs."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints; null for none by steps. May be combined with `every_epochs`."""
    keep_last: int = Field(default=3, ge=1)
    """Number of most recent checkpoints to keep."""
    keep_best: bool = True
    """Also keep the best checkpoint."""
    best_by: Literal["top1_error", "top5_error", "loss"] = "top1_error"
    """Validation metric that decides which checkpoint is the best; lower is better."""
    keep_every_epochs: float | None = Field(default=None, gt=0.0)
    """Permanently keep the first checkpoint at or after every this many epochs; null for none."""
    on_write_error: Literal["stop", "continue"] = "stop"
    """If a checkpoint cannot be written: `stop` ends the run with exit code 4; `continue` warns, keeps the previous checkpoint and tries
    again at the next save, and the run ends with exit code 4 only if its last save failed."""


class ExportSection(Section):
    """Default formats of `inceptionctl export`, and licences for its model card."""

    formats: list[Literal["onnx", "safetensors", "pt2", "timm", "torchscript", "triton"]] = Field(
        default=["onnx", "safetensors"], min_length=1
    )
    """Formats to export when no --format is given."""
    license: str | None = None
    """Licence of the weights for the model card, as an SPDX identifier such as apache-2.0; null states that none was given."""
    data_license: str | None = None
    """Licence of the data set in `data.root` for the model card, as text; dropped if another recipe or `--set` changes the root."""


class HealthSection(Section):
    """Detection of dead or diverging networks (section 3.3 of the paper), checked with every row of metrics."""

    watch: bool = True
    """Monitor the fraction of zero activations before the average pool, and the scale of each block's activations."""
    stop_when_dead: bool = True
    """Treat a dead network as a divergence (`train.on_divergence`); a non-finite loss or gradient always is one."""
    max_zero_share: float = Field(default=0.999, gt=0.0, le=1.0)
    """A network is dead if more than this fraction of its activations before the average pool is zero ..."""
    patience_windows: int = Field(default=3, ge=1)
    """... in this many consecutive rows of metrics. Nothing is saved meanwhile, so the last checkpoint is good."""


class Recipe(Section):
    """A complete training: everything that a run depends on, and nothing else."""

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
    """The health checks."""
    export: ExportSection = ExportSection()
    """The exports."""
    log: LogSection = LogSection()
    """The experiment trackers."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.schedule.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} must be shorter than train.epochs {self.train.epochs:g}"
            )
        return self

    @model_validator(mode="after")
    def _batches_can_be_made(self) -> Self:
        problem = size_problem(self.model, self.train.progressive_resizing or {})
        problem = problem or repeats_problem(self.data.augment.repeats, self.train.global_batch_size)
        if problem:
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": problem[0], "hint": problem[1]})
        return self

    @model_validator(mode="after")
    def _validates_before_the_end(self) -> Self:
        if self.train.stop_when.patience_epochs is not None and self.evaluate.every_epochs is None:
            message = "train.stop_when.patience_epochs cannot be used with evaluate.every_epochs null: early stopping goes by validations"
            hint = "set evaluate.every_epochs to 1.0"
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})
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
                    "hint": "while one rank waits for an image, the others wait for that rank; make it several times as long",
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

    def with_classes(self, number: int = ASSUMED_CLASSES) -> Self:
        """With this number of classes where it is still `auto`.

        ImageNet's, by default, stands in where no data set is looked at, or where nothing depends on it.
        """
        if self.model.num_classes != AUTO_CLASSES:
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"num_classes": number})})


# Keys that may change when a run is resumed: where things are and how they are reported, never what is computed.
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
        "train.stop_when.metric",
        "train.stop_when.patience_epochs",
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
        "log",
    }
)


def flatten(tree: Tree, prefix: str = "") -> Tree:
    """Nested sections as dotted keys: {'optim': {'name': 'sgd'}} -> {'optim.name': 'sgd'}."""
    flat: Tree = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def differing(old: Tree, new: Tree) -> list[str]:
    """The keys whose values differ; a number of classes that is still to be counted may be any."""
    keys = (key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key))
    return [key for key in keys if not (key.endswith("num_classes") and "auto" in (old.get(key), new.get(key)))]


def binding(tree: Tree, also: Collection[str] = ()) -> Tree:
    """The dotted keys of a resolved recipe that must not change when a run is resumed, and those that are or begin with one of `also`."""
    return {
        key: value
        for key, value in flatten(tree).items()
        if (key not in FREE_TO_CHANGE and key.split(".")[0] not in FREE_TO_CHANGE)
        or any(key == fixed or key.startswith(f"{fixed}.") for fixed in also)
    }
