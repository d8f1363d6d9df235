"""What a data set may lie in, and the lists beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

Format = Literal["auto", "folder", "webdataset", "tfrecord", "csv", "imagenet"]
ClassOrder = Literal["sorted", "listed"]


class Sources(TypedDict, total=False):
    """What a split is opened from, besides its root (docs/data.md has the formats)."""

    format: Format
    class_names: Path | None
    """A file with the names of the classes in the order of the labels."""
    class_order: ClassOrder
    val_labels: Path | None
    """A file with the classes of validation images that lie in no class folders."""
    train_csv: Path | None
    val_csv: Path | None
    exclusions: Path | None
    """A list of images to leave out."""
    val_fraction: float | None
    """What part of the images to validate on, where there is no validation split."""
    group_by: str | None
    """A regular expression for what belongs on one side of that division."""
    group_by_column: str | None
    """The column of `train_csv` that tells it."""
