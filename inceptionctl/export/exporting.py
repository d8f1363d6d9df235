"""`inceptionctl export`: write formats of a trained network, each compared with the checkpoint before it takes its place."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.accuracy import Validation
from inceptionctl.export.checking import Sample, check, check_pixels
from inceptionctl.export.description import Accuracy, describe
from inceptionctl.export.forms import Exporter, Logits
from inceptionctl.export.to_onnx import ONNX
from inceptionctl.export.to_pt2 import PT2
from inceptionctl.export.to_safetensors import SAFETENSORS
from inceptionctl.export.to_timm import TIMM
from inceptionctl.export.to_torchscript import TORCHSCRIPT
from inceptionctl.export.to_triton import TRITON
from inceptionctl.storage import disk_errors, sync, write_atomically

EXPORTERS: dict[str, Exporter] = {
    "onnx": ONNX,
    "safetensors": SAFETENSORS,
    "pt2": PT2,
    "timm": TIMM,
    "triton": TRITON,
    "torchscript": TORCHSCRIPT,
}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares."""

    format: str
    path: Path
    num_bytes: int
    max_difference: float
    """Largest absolute difference from the checkpoint's of a logit, or of a probability where `of` says so."""
    seconds: float
    remarks: tuple[str, ...] = ()
    """What should be known of it."""
    of: Literal["logit", "probability"] = "logit"
    accuracy: Accuracy | None = None
    """What fewer bits cost."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """The other files that belong to it, by their names in the folder, and their bytes."""


def export(
    trained: Trained,
    formats: Sequence[str],
    folder: Path,
    sample: Sample,
    on_start: Callable[[str], None] = lambda name: None,
    *,
    exporters: Mapping[str, Exporter] | None = None,
    validation: Validation | None = None,
) -> list[Exported]:
    """Write the formats into `folder`, replacing earlier exports; the network is on the CPU.

    `formats` are keys of `exporters`, by default of EXPORTERS. Those in fewer bits are judged by `validation`, which they need.
    Raises CheckpointError when an export does not agree with the checkpoint on `sample`; what was in its place stays then.
    Raises EnvironmentFault when the disk refuses.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in dict.fromkeys(formats):
        on_start(name)
        exporter = (EXPORTERS if exporters is None else exporters)[name]
        written.append(_export(name, exporter, trained, folder, sample, validation))
    return written


def _export(
    name: str, exporter: Exporter, trained: Trained, folder: Path, sample: Sample, validation: Validation | None
) -> Exported:
    start = time.perf_counter()
    exporter = exporter.of(trained)
    files = exporter.write(trained, describe(trained))
    with disk_errors(folder):
        # In the same folder, so that renaming stays on one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            for file, content in files.items():
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(temporary / file, content)
            found = _compared(exporter, temporary / exporter.file, sample, validation)
            if exporter.noted and found.accuracy:
                told = exporter.open(temporary / exporter.file, torch.device("cpu")).description
                noted = exporter.noted(files[exporter.file], told.model_copy(update={"accuracy": found.accuracy}))
                files[exporter.file] = noted
                write_atomically(temporary / exporter.file, noted)
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (temporary / file).replace(folder / file)
            sync((folder / exporter.file).parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    sizes = {file: len(content) for file, content in files.items()}
    beside = {file: size for file, size in sizes.items() if file != exporter.file}
    remarks = (*exporter.remarks(trained), *found.remarks)
    seconds = time.perf_counter() - start
    place, num_bytes = folder / exporter.file, sum(sizes.values())
    return Exported(name, place, num_bytes, found.difference, seconds, remarks, found.of, found.accuracy, beside)


@dataclass(frozen=True)
class _Comparison:
    difference: float
    of: Literal["logit", "probability"]
    accuracy: Accuracy | None
    remarks: tuple[str, ...]


def _compared(exporter: Exporter, file: Path, sample: Sample, validation: Validation | None) -> _Comparison:
    """A file just written beside the checkpoint, by each program that it is for. Raises CheckpointError when it fails with one."""
    asked, logits = _reader(exporter, file)
    first = _comparison(exporter, logits, sample, validation, "onnxruntime")
    remarks = list(asked)
    for client in exporter.also:
        name, logits = client(file)
        other = _comparison(exporter, logits, sample, validation, name)
        lost = f", {other.accuracy.loss:.2f} points lost" if other.accuracy else ""
        remarks.append(f"{name} reads it too: largest difference {other.difference:.1e} of a {other.of}{lost}")
        remarks.extend(other.remarks)
    return replace(first, remarks=(*remarks, *first.remarks))


def _comparison(exporter: Exporter, logits: Logits, sample: Sample, validation: Validation | None, by: str) -> _Comparison:
    if exporter.noted is None:
        checked = check_pixels if exporter.takes_pixels else check
        return _Comparison(
            checked(exporter.file, logits, sample), "probability" if exporter.takes_pixels else "logit", None, ()
        )
    assert validation is not None
    accuracy = validation.measure(logits, exporter.takes_pixels)
    doubt = validation.judge(exporter.file, by, accuracy)
    remarks = (doubt,) if doubt else ()
    if accuracy.max_difference is None:
        return _Comparison(accuracy.max_probability_difference, "probability", accuracy, remarks)
    return _Comparison(accuracy.max_difference, "logit", accuracy, remarks)


def _reader(exporter: Exporter, file: Path) -> tuple[tuple[str, ...], Logits]:
    """(a remark on who was asked, for formats with a client of their own; the logits of a file just written)."""
    if exporter.client is None:
        return (), exporter.open(file, torch.device("cpu")).logits
    name, logits = exporter.client(file)
    return (f"compared with the logits that {name} gives",), logits
