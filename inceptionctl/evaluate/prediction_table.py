"""The likeliest classes of many images as a file: CSV for spreadsheets, JSON Lines for programs, Parquet for pandas and DuckDB."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as arrow
import torch
from pyarrow import parquet

from inceptionctl.evaluate.evaluation import Floats
from inceptionctl.evaluate.records import ABOUT
from inceptionctl.evaluate.results import HowUnlabelled
from inceptionctl.storage import write_atomically

NOT_FINITE = "the network's answer is not finite"


@dataclass(frozen=True)
class Row:
    """One image: its likeliest classes, best first, or why it has none."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    words: tuple[str, ...] | None
    """What the classes are called in English; None where their names are no synsets of ImageNet."""
    error: str | None


@dataclass(frozen=True)
class Table:
    """The probabilities of every image, of which each format writes the `top_k` highest."""

    paths: Sequence[str]
    probabilities: Floats
    """[images, classes]; NaN for an image that could not be decoded."""
    reasons: Sequence[str | None]
    """Why an image could not be decoded, [images]."""
    classes: Sequence[str]
    words: Mapping[str, str]
    """What classes are called in English; empty unless they are synsets of ImageNet."""
    top_k: int

    @property
    def width(self) -> int:
        """Classes of a row."""
        return min(self.top_k, len(self.classes))

    def errors(self) -> list[str | None]:
        """Why each image has no classes; None where it has."""
        finite: list[bool] = torch.from_numpy(self.probabilities).isfinite().all(dim=1).tolist()
        return [None if known else reason or NOT_FINITE for known, reason in zip(finite, self.reasons, strict=True)]

    def rows(self) -> Iterator[Row]:
        """In the order of the images."""
        # The same choice among equal ones as in the errors (metrics.py).
        best = torch.from_numpy(self.probabilities).topk(self.width, dim=1)
        for k, (path, error) in enumerate(zip(self.paths, self.errors(), strict=True)):
            names = () if error else tuple(self.classes[place] for place in best.indices[k].tolist())
            words = tuple(self.words[name] for name in names) if self.words else None
            yield Row(path, names, () if error else tuple(best.values[k].tolist()), words, error)


def write_table(path: Path, table: Table, about: HowUnlabelled) -> None:
    """Write a row an image, in the format that the name ends in. `about` becomes metadata of a Parquet file.

    Raises EnvironmentFault when the disk refuses.
    """
    write_atomically(path, WRITERS[path.suffix.lower()](table, about))


def _csv(table: Table, about: HowUnlabelled) -> bytes:
    kinds = ("class", *(("words",) if table.words else ()), "probability")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["path", *(f"{kind}_{rank}" for rank in range(1, table.width + 1) for kind in kinds), "error"])
    for row in table.rows():
        columns = (row.classes, *(() if row.words is None else (row.words,)), [f"{value:.6g}" for value in row.probabilities])
        cells = [cell for of_rank in zip(*columns, strict=True) for cell in of_rank]
        lines.writerow([row.path, *(cells or [""] * (table.width * len(kinds))), row.error or ""])
    return text.getvalue().encode()


def _jsonl(table: Table, about: HowUnlabelled) -> bytes:
    return "".join(json.dumps(_cells(row), ensure_ascii=False) + "\n" for row in table.rows()).encode()


def _cells(row: Row) -> dict[str, object]:
    words = {} if row.words is None else {"words": row.words}
    # The shortest decimal number that is the same float32.
    values = [float(str(np.float32(value))) for value in row.probabilities]
    return {"path": row.path, "classes": row.classes, **words, "probabilities": values, "error": row.error}


def _parquet(table: Table, about: HowUnlabelled) -> bytes:
    texts = arrow.list_(arrow.string())
    types = {
        "path": arrow.string(),
        "classes": texts,
        **({"words": texts} if table.words else {}),
        "probabilities": arrow.list_(arrow.float32()),
        "error": arrow.string(),
    }
    rows = list(table.rows())
    columns = {name: arrow.array([getattr(row, name) for row in rows], kind) for name, kind in types.items()}
    data = io.BytesIO()
    described = arrow.table(columns).replace_schema_metadata({ABOUT: json.dumps(about)})
    parquet.write_table(described, data, compression="zstd")
    return data.getvalue()


WRITERS: dict[str, Callable[[Table, HowUnlabelled], bytes]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
