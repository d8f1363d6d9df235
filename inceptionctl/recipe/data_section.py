"""The recipe's section `data`: where the images are, how they are read and augmented."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, field_validator, model_validator

from inceptionctl.augmentations import AUGMENTATIONS, Augmentation
from inceptionctl.data.sources import ClassOrder, Format, Sources
from inceptionctl.section import Probability, Section

Range = Annotated[tuple[float, float], Field(strict=False)]
Positive = Annotated[float, Field(gt=0.0)]
Filter = Literal["bilinear", "nearest", "bicubic", "lanczos"]


class MixSection(Section):
    """Mixup and CutMix of pairs of training images; needs an even micro batch."""

    mixup_alpha: float = Field(default=0.0, ge=0.0)
    """Parameter of the beta distribution of the weights of mixup; 0 disables it (timm's recipes: 0.1 to 0.8)."""
    cutmix_alpha: float = Field(default=0.0, ge=0.0)
    """Parameter of the beta distribution of the areas of CutMix; 0 disables it (timm's recipes: 1.0)."""
    probability: Probability = 1.0
    """Probability that a pair is mixed."""
    cutmix_probability: Probability = 0.5
    """Probability of CutMix rather than mixup for a mixed pair, if both are enabled."""
    until_epoch: int | None = Field(default=None, ge=0)
    """Stop mixing at this epoch; null mixes to the end."""

    @property
    def is_on(self) -> bool:
        """Whether any pair is mixed."""
        return self.probability > 0.0 and max(self.mixup_alpha, self.cutmix_alpha) > 0.0


class _Builtin(Section):
    """Augmentation of training images. Each draw is a pure function of (seed, epoch, position)."""

    crop_area: Range = (0.05, 1.0)
    """Area of the random crop as a fraction of the image, drawn uniformly."""
    crop_aspect: Range = (0.75, 1.3333333333333333)
    """Aspect ratio (width / height) of the random crop."""
    resize_filters: list[Filter | Literal["area"]] = Field(default=["bilinear"], min_length=1)
    """Interpolation of the crop's resize; if there are several, each image draws one. Only `area` antialiases."""
    horizontal_flip: Probability = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Probability = 0.0
    """Probability of a vertical flip; not for natural photographs."""
    brightness: float = Field(default=0.12549019607843137, ge=0.0, lt=1.0)
    """Largest brightness shift, up or down, as a fraction of the full range (TF-slim: 32/255)."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The contrast factor, about the mean of each channel, is drawn from [1 - x, 1 + x]."""
    saturation: float = Field(default=0.5, ge=0.0, le=1.0)
    """The saturation factor is drawn from [1 - x, 1 + x]."""
    hue_degrees: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest hue rotation in degrees, in either direction (TF-slim's full mode: 72)."""
    mix: MixSection = MixSection()
    """Mixup and CutMix."""
    repeats: int = Field(default=1, ge=1)
    """Repeated augmentation: how often each image stands in a global batch, each time with other draws (timm's `aug_repeats`)."""
    color_order: Literal["fixed", "random"] = "fixed"
    """`fixed`: brightness, saturation, hue, contrast; `random`: each image draws one of TF-slim's four orders."""

    @field_validator("resize_filters")
    @classmethod
    def _no_filter_twice(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"resize_filters {names} names a filter twice; each is drawn with equal probability")
        return names

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.crop_area
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"crop_area [{low}, {high}] must satisfy 0 < low <= high <= 1")
        low, high = self.crop_aspect
        if not 0.0 < low <= high:
            raise ValueError(f"crop_aspect [{low}, {high}] must satisfy 0 < low <= high")
        return self

    @property
    def builtin(self) -> dict[str, Any]:
        """The keys that are always there: crop, flips and colours."""
        return self.model_dump(exclude={*AUGMENTATIONS, "mix", "repeats"})

    @property
    def switched_on(self) -> tuple[Augmentation, ...]:
        """The augmentations of modules, in the order in which they are applied."""
        each = (getattr(self, key) for key in AUGMENTATIONS)
        return tuple(one for one in each if one.is_on)


if TYPE_CHECKING:
    AugmentSection = _Builtin
else:
    # One section for each module in augmentations/.
    _FIELDS = {key: (kind, Field(default=kind(), description=kind.__doc__)) for key, kind in AUGMENTATIONS.items()}
    AugmentSection = create_model("AugmentSection", __base__=_Builtin, __module__=__name__, __doc__=_Builtin.__doc__, **_FIELDS)


class DataSection(Section):
    """Where the images are and how they are read."""

    root: str = "data/imagenet"
    """Root of the data set, with train/<class>/* and val/<class>/* or another format; relative to the working directory."""
    format: Format = "auto"
    """Format of the data set; `auto` detects it (docs/data.md lists the formats)."""
    class_names: str | None = None
    """File with one class name per line, in the order of the labels; null takes the names from the data, sorted."""
    class_order: ClassOrder = "sorted"
    """Set to `listed` to accept class names that are not in sorted order, which is an error otherwise."""
    val_labels: str | None = None
    """File with the classes of validation images that are not in class folders; null looks for the usual names in `root`."""
    train_csv: str | None = None
    """CSV file of the training images, with columns path and label."""
    val_csv: str | None = None
    """CSV file of the validation images, likewise."""
    exclusions: str | None = None
    """File of images to leave out, one path below `root` per line; `inceptionctl data check ROOT --write-exclusions FILE` writes one."""
    val_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Fraction of each class to validate on if there is no validation split, chosen by a hash of the image; null needs a split."""
    group_by: str | None = None
    """Regular expression on paths below `root`; images for which its first group is equal stay on one side of `val_fraction`."""
    group_by_column: str | None = None
    """Column of `train_csv`; images with equal values in it stay on one side of `val_fraction`."""
    sampling: Literal["natural", "balanced", "sqrt"] = "natural"
    """Which classes the places of an epoch draw: `natural` takes each image once, `balanced` all classes equally often, `sqrt` in proportion
    to the square root of their images."""
    decode: Literal["auto", "cpu", "mixed", "mixed_roi"] = "auto"
    """Where JPEGs are decoded: `cpu`, `mixed` (GPU), or `mixed_roi` (GPU, the crop only); `auto` is `mixed` if there is a GPU."""
    exif_orientation: bool = True
    """Apply the EXIF orientation; TF-slim ignores it."""
    num_threads: int | None = Field(default=None, ge=1)
    """DALI's CPU threads per rank; null divides the cores of the machine among its ranks."""
    max_bad_images: int = Field(default=100, ge=0)
    """Unreadable images that a training tolerates; each is replaced by another image, validation leaves it out."""
    read_timeout_seconds: float = Field(default=60.0, gt=0.0)
    """Timeout for reading an image, after which it counts as unreadable."""
    mean: Annotated[tuple[float, float, float], Field(strict=False)] = (0.5, 0.5, 0.5)
    """Mean of R, G and B in [0, 1], subtracted. With `std` 0.5 the network sees [-1, 1], as in TF-slim."""
    std: Annotated[tuple[Positive, Positive, Positive], Field(strict=False)] = (0.5, 0.5, 0.5)
    """Standard deviation of R, G and B, divided by after that."""
    augment: AugmentSection = AugmentSection()
    """Augmentation of training images."""

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether `decode` asks for a GPU, wherever it runs."""
        return self.decode.startswith("mixed")

    @property
    def root_path(self) -> Path:
        """`root`, with ~ for the home directory."""
        return expanded(self.root)

    @property
    def exclusions_path(self) -> Path | None:
        """`exclusions`, with ~ for the home directory."""
        return _file(self.exclusions)

    def sources(self, root: Path) -> Sources:
        """How to open the data set at `root`; for one other than the recipe's, only the class names apply."""
        named: Sources = {"class_names": _file(self.class_names), "class_order": self.class_order}
        if root != self.root_path:
            return named
        return {
            **named,
            "format": self.format,
            "val_labels": _file(self.val_labels),
            "train_csv": _file(self.train_csv),
            "val_csv": _file(self.val_csv),
            "exclusions": _file(self.exclusions),
            "val_fraction": self.val_fraction,
            "group_by": self.group_by,
            "group_by_column": self.group_by_column,
        }

    @model_validator(mode="after")
    def _lists_have_a_use(self) -> Self:
        for key in ("train_csv", "val_csv"):
            if getattr(self, key) and self.format not in ("auto", "csv"):
                raise ValueError(f"{key} '{getattr(self, key)}' is read with the format csv or auto, not {self.format}")
        for key in ("group_by", "group_by_column"):
            if getattr(self, key) and self.val_fraction is None:
                raise ValueError(f"{key} needs val_fraction: nothing is divided without it")
        if self.group_by_column and not self.train_csv:
            raise ValueError(f"group_by_column '{self.group_by_column}' needs train_csv: it is a column of that list")
        if self.group_by_column and self.group_by:
            raise ValueError("group_by_column and group_by exclude each other: give one of the two")
        return self


def repeats_problem(times: int, global_batch_size: int) -> tuple[str, str] | None:
    """What is wrong with so many repeats in a batch, and a hint: mixing takes two images at least, and so does batch norm."""
    if 1 < times >= global_batch_size:
        return (
            f"data.augment.repeats {times} leaves one image in a batch of train.global_batch_size {global_batch_size}",
            f"set data.augment.repeats to {max(1, global_batch_size // 2)} or less",
        )
    return None


def _file(path: str | None) -> Path | None:
    return expanded(path) if path else None


def expanded(path: str) -> Path:
    """`path` with ~ for the home directory."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for an unknown user)
