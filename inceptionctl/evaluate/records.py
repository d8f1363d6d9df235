"""Per-image results as a Parquet file, for `pandas.read_parquet` and for ensembles (docs/evaluation.md)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import torch
from numpy.typing import NDArray
from pyarrow import parquet
from torch import Tensor

from inceptionctl.data.dataset import ImageSet
from inceptionctl.errors import DataError
from inceptionctl.evaluate.results import About, HowAnswered
from inceptionctl.storage import write_atomically

ABOUT = b"inceptionctl"


@dataclass(frozen=True)
class Record:
    """What a file of probabilities holds."""

    images: list[str]
    """Names below the data root, in the data set's order."""
    labels: Tensor
    """int64 [N]; [0] where they are unknown, as for a challenge's test images."""
    probabilities: Tensor
    """float32 [N, classes]."""
    about: About
    """protocol, classes, checkpoint and the rest of the result, without its tables."""


def write_record(path: Path, images: ImageSet, probabilities: NDArray[np.float32], about: About | HowAnswered) -> None:
    """Columns: image, label, class, predicted, confidence, and probabilities (a list of one float32 a class).

    `about` is kept as JSON in the file's metadata. Raises EnvironmentFault when the disk refuses.
    """
    write_answers(path, names_below_root(images), images.labels, images.classes, probabilities, about)


def write_answers(
    path: Path,
    images: Sequence[str],
    labels: NDArray[Any] | None,
    classes: Sequence[str],
    probabilities: NDArray[np.float32],
    about: About | HowAnswered,
) -> None:
    """The same for images by their names below the data root and labels int [N]; without labels there are no columns label and class."""
    names = np.array(classes, dtype=object)
    truth = {} if labels is None else {"label": labels.astype(np.int32), "class": names[labels]}
    table = arrow.table(
        {
            "image": images,
            **truth,
            "predicted": names[probabilities.argmax(1)],
            "confidence": probabilities.max(1),
            "probabilities": arrow.FixedSizeListArray.from_arrays(
                arrow.array(probabilities.reshape(-1)), probabilities.shape[1]
            ),
        }
    )
    data = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), data, compression="zstd")
    write_atomically(path, data.getvalue())


def read_record(path: Path) -> Record:
    """Read a file of `write_record` or `write_answers`. Raises DataError for any other."""
    try:
        table = parquet.read_table(path)
        about = json.loads(table.schema.metadata[ABOUT])
        column = table["probabilities"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        labels = table["label"].to_numpy() if "label" in table.column_names else []
        return Record(table["image"].to_pylist(), torch.tensor(labels).long(), torch.tensor(values), about)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise DataError(
            f"{path} is not a file of probabilities: {type(error).__name__}: {error}", "`inceptionctl evaluate` writes them"
        ) from None


def name_below_root(images: ImageSet, i: int) -> str:
    """The i-th image's name, the same wherever its data set lies."""
    return images.name(i).removeprefix(f"{images.root}/")


def names_below_root(images: ImageSet) -> list[str]:
    """All images' names, in order."""
    return [name_below_root(images, i) for i in range(len(images))]
