"""What evaluations write, as JSON values (docs/evaluation.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from inceptionctl.protocols import ProtocolName


class Metrics(TypedDict):
    """Figures from probabilities; metrics.py says what they are. Errors in percent."""

    num_images: int
    top1_error: float
    top5_error: float | None
    """None of five classes or fewer, and so its interval."""
    top1_error_interval: list[float]
    top5_error_interval: list[float] | None
    loss: float
    calibration_error: float
    calibration: list[dict[str, float]]


class RealErrors(TypedDict, total=False):
    """Errors by the labels of ImageNet ReaL, if requested."""

    real_top1_error: float
    real_num_images: int


class HowAnswered(TypedDict):
    """Protocol, preprocessing, network and data of an evaluation."""

    protocol: ProtocolName
    preparation: str
    """In words."""
    scales: list[int] | None
    input_px: int
    central_fraction: float
    keep_aspect: bool
    interpolation: str
    antialias: bool
    mean: list[float]
    std: list[float]
    exif_orientation: bool
    network: str
    weights: str
    step: int
    checkpoint: str
    chosen: object
    data_root: str
    data_root_absolute: str


class HowUnlabelled(HowAnswered):
    """The same for images without labels, which have no result."""

    classes: list[str]


class ClassFigures(TypedDict):
    """One class against the rest (classwise.py); null where undefined, as for a class without images. All but the error are in [0, 1]."""

    num_images: int
    top1_error: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None


class MacroAverage(TypedDict):
    """Unweighted means over the classes that have images."""

    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None


class MaxF1(TypedDict):
    """The threshold that maximises F1, and what it gives."""

    threshold: float
    f1: float
    precision: float
    recall: float


class EqualError(TypedDict):
    """The threshold at which false positive and false negative rate are closest."""

    threshold: float
    false_positive_rate: float
    false_negative_rate: float


class Thresholds(TypedDict):
    """Of two classes; an image is `positive_class` if the probability of that class is at least the threshold."""

    positive_class: str
    max_f1: MaxF1
    equal_error: EqualError


class Classwise(TypedDict):
    """What an evaluation and an ensemble say of classes (classwise.py)."""

    per_class: dict[str, ClassFigures]
    macro_average: MacroAverage
    thresholds: Thresholds | None
    """None but for two classes that both have images."""


class Confused(TypedDict):
    """How many images of one class were predicted as another."""

    true: str
    predicted: str
    count: int


class Result(HowAnswered, Metrics, Classwise):
    """An evaluation's. `confusion` is the matrix (row: true class, column: predicted) up to 100 classes, else the most confused pairs."""

    subset: str
    precision: str
    tf32: bool
    device: str
    seconds: float
    images_per_second: float
    classes: list[str]
    confusion: list[list[int]] | list[Confused]


class ResultWithReal(Result, RealErrors):
    """A result with errors by ImageNet ReaL."""


class MemberFigures(TypedDict):
    """One network of an ensemble by itself."""

    name: str
    weight: float
    checkpoint: str | None
    network: str | None
    seconds_per_image: float | None
    top1_error: float
    top5_error: float | None
    """None of five classes or fewer, and so its interval."""
    loss: float
    calibration_error: float


class Difference(TypedDict):
    """Share of images for which two members, by index, predict different classes."""

    members: list[int]
    percent: float


class AnsweredImages(TypedDict, total=False):
    """The images that the members were evaluated on, where known."""

    data_root: str
    subset: str


class EnsembleResult(Metrics, Classwise, AnsweredImages):
    """An ensemble's; `agree` is the share of images in percent for which all members predict the same class."""

    protocol: str
    members: list[MemberFigures]
    seconds_per_image: float | None
    differ: list[Difference]
    agree: float
    classes: list[str]


class About(TypedDict, total=False):
    """Metadata of a file of probabilities: the keys that readers use of a result without its tables."""

    protocol: str
    classes: list[str]
    checkpoint: str | None
    network: str | None
    images_per_second: float
    seconds_per_image: float | None
    data_root: str
    data_root_absolute: str
    subset: str
