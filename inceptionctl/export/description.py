"""Metadata of an export: enough to build the network, preprocess an image, and name the classes.

It is the config.json beside model.safetensors, the metadata of model.onnx (values other than text as JSON), and the extra file
config.json in model.pt2.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.models import MODELS, NetworkArguments, is_timm, option_problem
from inceptionctl.recipe.data_section import Filter, Positive
from inceptionctl.train.inputs import preparation_of

# The fields that `to_properties` gives as they are.
_TEXTS = frozenset(
    {"architecture", "input_layout", "interpolation", "precision", "output", "weights", "checkpoint", "checkpoint_sha256"}
)

# Keys of a recipe's section model that are fields here.
_OPTIONS = ("width", "aux_head", "residual_scale", "residual_unit", "shortcut", "extra_batch_norm")
_OF_THE_NETWORK = {"num_classes", "batch_norm_eps", *_OPTIONS}

Scale = Annotated[float, Field(gt=0.0, le=1.0)]

HINT = "name a run or an export of inceptionctl; `inceptionctl export RUN` writes one"


class Accuracy(BaseModel):
    """What fewer bits cost: an export beside its checkpoint on validation images."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True)

    num_images: int = Field(ge=1)
    """Validation images that were compared."""
    top1_checkpoint: float
    """Percent that the checkpoint classifies correctly."""
    top1: float
    """Percent that the export classifies correctly."""
    loss: float
    """Percentage points lost; negative where the export is better."""
    loss_interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """95% interval of the loss in percentage points; null in files of earlier versions."""
    agreement: float
    """Percent for which both predict the same class."""
    max_difference: float | None
    """Largest absolute difference of a logit; null where the export gives probabilities."""
    max_probability_difference: float
    """Largest absolute difference of a probability."""
    instruction_set: str | None = None
    """Instruction set for 8-bit products of the processor that measured it; null in files of earlier versions."""


class Description(BaseModel):
    """The facts of an export. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True)

    format: Literal[1] = 1
    """Version of this description."""
    architecture: str
    """Name of the network in `inceptionctl models list`."""
    width: float = Field(gt=0.0)
    """Factor on every channel count; 1.0 is the paper's network."""
    batch_norm_eps: float = Field(gt=0.0)
    """Added to the variance in batch norm."""
    aux_head: bool | None = None
    """Whether the weights include an auxiliary head, which only training uses; null is the network's default."""
    residual_scale: Scale | Annotated[list[Scale], Field(min_length=3, max_length=3)] | None = None
    """Factor on the residuals, or one for each of the three grids; null is the network's default."""
    residual_unit: Literal["original", "bottleneck"] | None = None
    """Unit of a ResNet; null is the network's default."""
    shortcut: bool = True
    """Whether the blocks of an Inception-ResNet add their input."""
    extra_batch_norm: bool = False
    """Whether a batch norm comes before an Inception-ResNet's average pool."""
    num_classes: int = Field(ge=1)
    """Number of logits."""
    class_names: list[str]
    """Names in the order of the logits."""
    input_px: int = Field(ge=1)
    """Side of the square input in pixels."""
    input_layout: str = "N x 3 x input_px x input_px, float32, RGB"
    """Shape and type of the input: `images`, or `pixels` as decoded."""
    pixels_in: bool = False
    """Whether the file includes the preprocessing: the input is as decoded (and turned upright), of any size."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the file computes."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of weights and arithmetic."""
    accuracy: Accuracy | None = None
    """What fewer bits cost; null in fp32, whose logits are the checkpoint's."""
    central_fraction: float = Field(gt=0.0, le=1.0)
    """Share of each side that the central crop keeps before the resize to the square: timm's crop_pct."""
    keep_aspect: bool = False
    """false: the crop is squashed to the square; true: the shorter side is resized to floor(input_px / central_fraction) and the
    middle square taken."""
    interpolation: Filter = "bilinear"
    """How the picture is resized."""
    antialias: bool = False
    """Whether the filter widens where the picture shrinks, as Pillow's do."""
    mean: list[float] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Subtracted from the R, G, B values in [0, 1]."""
    std: list[Positive] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Divisor of the difference."""
    exif_orientation: bool = True
    """Whether the picture is first turned upright by its EXIF orientation."""
    weights: Literal["ema", "raw"]
    """Running averages of the weights, or the last weights."""
    step: int = Field(ge=0)
    """Optimizer steps of training."""
    checkpoint: str
    """The checkpoint that was exported, as RUN/checkpoints/step-..."""
    checkpoint_sha256: str
    """sha256 of the checkpoint's file of these weights."""

    @property
    def preparation(self) -> Preparation:
        """How a picture becomes the network's input."""
        values = {item.name: getattr(self, item.name) for item in fields(Preparation)}
        return Preparation(**values | {"mean": tuple(self.mean), "std": tuple(self.std)})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.num_classes} num_classes")
        if self.architecture not in MODELS and not is_timm(self.architecture):
            raise ValueError(f"unknown architecture '{self.architecture}'; this version knows {', '.join(MODELS)}")
        problem = option_problem(self.architecture, **{option: getattr(self, option) for option in (*_OPTIONS, "input_px")})
        if problem:
            raise ValueError(problem[0])
        return self

    def model_arguments(self) -> NetworkArguments:
        """Arguments of `build_model` for this network. Dropout and batch norm's momentum only matter in training."""
        names = (*_OF_THE_NETWORK, "input_px")
        return cast(NetworkArguments, {"name": self.architecture, **{name: getattr(self, name) for name in names}})

    def to_json(self) -> str:
        """The text of a config.json."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"

    def to_properties(self) -> dict[str, str]:
        """As strings, for formats whose metadata has no other type."""
        return {key: value if key in _TEXTS else json.dumps(value) for key, value in self.model_dump().items()}


def describe(trained: Trained) -> Description:
    """The description of an export of a trained network."""
    section, preparation = trained.recipe.model, preparation_of(trained.recipe)
    place = trained.checkpoint.absolute()
    return Description(
        architecture=section.name,
        **section.model_dump(mode="json", include=_OF_THE_NETWORK),
        class_names=list(trained.classes),
        **asdict(preparation) | {"mean": list(preparation.mean), "std": list(preparation.std)},
        weights=trained.weights,
        step=trained.step,
        # Only the last names: an export goes to other machines, where the folders above mean nothing.
        checkpoint="/".join(place.parts[-3:] if trained.run else place.parts[-1:]),
        checkpoint_sha256=trained.weights_sha256,
    )


def parse_description(text: str, where: str) -> Description:
    """The description in a config.json; `where` names the file. Raises CheckpointError naming every key that is wrong."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON: {error}", HINT) from None
    return _validated(content, where)


def description_of_properties(properties: dict[str, str], where: str) -> Description:
    """The inverse of `to_properties`. Raises CheckpointError when the metadata is not inceptionctl's."""
    content: dict[str, object] = {}
    for key in Description.model_fields.keys() & properties.keys():
        try:
            content[key] = properties[key] if key in _TEXTS else json.loads(properties[key])
        except ValueError:
            content[key] = properties[key]  # the validation says what is wrong with it
    return _validated(content, where)


def _validated(content: object, where: str) -> Description:
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        problems = [
            "".join((".".join(map(str, item["loc"])), ": " if item["loc"] else "", item["msg"])) for item in error.errors()
        ]
        raise CheckpointError(
            f"{where} does not describe an export of inceptionctl:\n  " + "\n  ".join(problems), HINT
        ) from None
