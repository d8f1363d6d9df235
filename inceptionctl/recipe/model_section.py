"""The recipe's section `model`: the network, what it starts from, and which of its blocks are trained when."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, NetworkArguments, hint_of_name, is_timm, option_problem
from inceptionctl.section import Section

AUTO_CLASSES = 0
"""`auto` as a number of classes, until the data set is opened."""
ASSUMED_CLASSES = 1000  # ImageNet's
EPOCH_ROUNDING = 1e-9
"""What an epoch that begins on a whole step may lack by rounding of step / steps per epoch."""


def _counted(value: object) -> object:
    if value == "auto":
        return AUTO_CLASSES
    if isinstance(value, int) and not isinstance(value, bool) and value < 2:
        raise PydanticCustomError("greater_than_equal", "Input should be greater than or equal to 2", {"ge": 2})
    return value


NumClasses = Annotated[
    int,
    BeforeValidator(_counted),
    PlainSerializer(lambda number: number or "auto"),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 2}, {"const": "auto"}]}),
]


class ModelSection(Section):
    """The network (`inceptionctl models list` names them all)."""

    name: str = "inception_v4"
    """A name from `inceptionctl models list`, or `timm/NAME` for a network of timm, if installed."""
    num_classes: NumClasses = AUTO_CLASSES
    """Number of classes; `auto` takes it from the data set, and the run's recipe has the number."""
    input_px: int = Field(default=299, ge=32)
    """Input resolution: side of the square input in pixels."""
    width: float = Field(default=1.0, gt=0.0, le=4.0)
    """Width multiplier of all channel counts (rounded to multiples of 8); 1.0 is the paper's network."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout rate before the classifier (the paper keeps 0.8)."""
    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Stochastic depth: probability of dropping the residual of the last unit for an image, rising linearly from 0 (residual networks only)."""
    batch_norm_momentum: float = Field(default=3e-4, gt=0.0, le=1.0)
    """Momentum of the running statistics, as in torch: 1 - TensorFlow's decay, on any number of ranks. Short runs need 0.01 to 0.1."""
    batch_norm_eps: float = Field(default=1e-3, gt=0.0)
    """Epsilon of batch norm, added to the variance."""
    aux_head: bool | None = None
    """Train with an auxiliary head; null follows the network's own paper (true for the Inception-v3 family)."""
    residual_scale: float | tuple[float, float, float] | None = None
    """Scale of the residuals of an Inception-ResNet, one or three (one per grid size); 1.0 disables scaling; null is (0.17, 0.10, 0.20)."""
    residual_unit: Literal["original", "bottleneck"] | None = None
    """Residual unit of a ResNet: two 3x3 convolutions (`original`) or the bottleneck; null follows the paper, `original` below 50 layers."""
    shortcut: bool = True
    """Whether the blocks of an Inception-ResNet add their input; false is the control that isolates the effect of residual connections."""
    extra_batch_norm: bool = False
    """Batch norm before an Inception-ResNet's average pool, which the paper tried against dying networks (section 3.3)."""
    init_from: str | None = None
    """Initialize from the weights of this run, checkpoint or safetensors export; the classifier is new if the number of classes differs."""
    freeze: list[str] = Field(default=[])
    """Blocks whose weights and batch-norm statistics are frozen, by name: `stem`, `blocks_a.0` (`inceptionctl models show NAME`)."""
    unfreeze: dict[float, list[str]] | None = None
    """Gradual unfreezing: epoch -> blocks of `freeze` that are trained from the start of that epoch on, as {2: [blocks_c], 5: [stem]}."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MODELS and not is_timm(name):
            raise PydanticCustomError(
                "rule_with_hint", "{message}", {"message": f"'{name}' is not a network", "hint": hint_of_name(name)}
            )
        return name

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _epochs(cls, value: Any) -> Any:
        if value is None:
            return value
        found: dict[float, list[str]] = {}
        wrong = [] if isinstance(value, dict) else [f"{value!r} is no mapping of epochs to lists of blocks"]
        for key, blocks in value.items() if isinstance(value, dict) else ():
            epoch = _epoch(key)
            if epoch is None or epoch in found:
                wrong.append(f"{key!r} is not an epoch above 0" if epoch is None else f"epoch {epoch:g} is given twice")
            elif not (isinstance(blocks, list) and blocks and all(isinstance(name, str) and name for name in blocks)):
                wrong.append(f"{blocks!r} is no list of blocks")
            else:
                found[epoch] = blocks
        if wrong:
            hint = "for example {2: [blocks_c], 5: [blocks_a, stem]}"
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": "; ".join(wrong), "hint": hint})
        return dict(sorted(found.items())) or None

    @field_serializer("unfreeze")
    def _epochs_as_written(self, value: dict[float, list[str]] | None) -> dict[str, list[str]] | None:
        # JSON has no other keys than text.
        return {repr(epoch).removesuffix(".0"): blocks for epoch, blocks in value.items()} if value else None

    @field_validator("residual_scale", mode="before")
    @classmethod
    def _scales(cls, value: Any) -> Any:
        scales = value if isinstance(value, list | tuple) else [1.0 if value is None else value]
        numbers = all(isinstance(scale, int | float) and not isinstance(scale, bool) and 0.0 < scale <= 1.0 for scale in scales)
        if not numbers or (scales is value and len(scales) != 3):
            raise ValueError(f"{value!r} is neither a number in (0, 1] nor a list of three, one per grid size")
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
            drop_path=self.drop_path,
            shortcut=self.shortcut,
            extra_batch_norm=self.extra_batch_norm,
        )
        if problem:
            message, hint = problem
            raise PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})
        return self

    def frozen_at(self, epoch: float) -> list[str]:
        """Names in `freeze` of the blocks that are not trained in this epoch, or not all of them."""
        begun = [name for start, blocks in (self.unfreeze or {}).items() if start <= epoch + EPOCH_ROUNDING for name in blocks]
        return [name for name in self.freeze if not any(name == one or name.startswith(f"{one}.") for one in begun)]

    def frozen_in_words(self, epoch: float) -> str:
        """What is frozen in this epoch and when that ends; empty where nothing is."""
        later = {start: blocks for start, blocks in (self.unfreeze or {}).items() if start > epoch + EPOCH_ROUNDING}
        ends = [f"{', '.join(blocks)} until epoch {start:g}" for start, blocks in later.items()]
        return "; ".join([", ".join(held), *ends]) if (held := self.frozen_at(epoch)) else ""

    def network(self) -> NetworkArguments:
        """Arguments of `models.build_model`: this section without what is done to a network after it is built.

        Raises RecipeError while the number of classes is still `auto`.
        """
        if self.num_classes == AUTO_CLASSES:
            raise RecipeError("model.num_classes is auto, and no data set is opened here", "`--set model.num_classes=N`")
        return cast(NetworkArguments, self.model_dump(exclude={"init_from", "freeze", "unfreeze"}))


def _epoch(key: object) -> float | None:
    """The key of a mapping in YAML, which may be text, as an epoch; None where it is none."""
    try:
        epoch = float(key) if isinstance(key, str | int | float) and not isinstance(key, bool) else math.nan
    except ValueError:
        return None
    return epoch if 0.0 < epoch < math.inf else None
