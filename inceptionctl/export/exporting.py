"""`inceptionctl export`: write formats of a trained network, each compared with the checkpoint before it takes its place."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.checking import Sample, check
from inceptionctl.export.description import describe
from inceptionctl.export.forms import Exporter, Logits
from inceptionctl.export.to_onnx import ONNX
from inceptionctl.export.to_pt2 import PT2
from inceptionctl.export.to_safetensors import SAFETENSORS
from inceptionctl.export.to_timm import TIMM
from inceptionctl.export.to_triton import TRITON
from inceptionctl.run import disk_errors, sync_folder, write_atomically

EXPORTERS: dict[str, Exporter] = {
    "onnx": ONNX,
    "safetensors": SAFETENSORS,
    "pt2": PT2,
    "timm": TIMM,
    "triton": TRITON,
}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares."""

    format: str
    path: Path
    num_bytes: int
    max_difference: float
    """Largest absolute difference of a logit from the checkpoint's."""
    seconds: float
    remarks: tuple[str, ...] = ()
    """What should be known of it."""


def export(
    trained: Trained, formats: Sequence[str], folder: Path, sample: Sample, on_start: Callable[[str], None] = lambda name: None
) -> list[Exported]:
    """Write the formats into `folder`, replacing earlier exports; the network is on the CPU.

    Raises CheckpointError when an export does not agree with the checkpoint on `sample`; what was in its place stays then.
    Raises EnvironmentFault when the disk refuses.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in dict.fromkeys(formats):
        on_start(name)
        written.append(_export(name, trained, folder, sample))
    return written


def _export(name: str, trained: Trained, folder: Path, sample: Sample) -> Exported:
    start = time.perf_counter()
    exporter = EXPORTERS[name].of(trained)
    files = exporter.write(trained, describe(trained))
    with disk_errors(folder):
        # In the same folder, so that renaming stays on one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            for file, content in files.items():
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(temporary / file, content)
            asked, logits = _reader(exporter, temporary / exporter.file)
            difference = check(exporter.file, logits, sample)
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (temporary / file).replace(folder / file)
            sync_folder((folder / exporter.file).parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    num_bytes = sum(len(content) for content in files.values())
    remarks = (*exporter.remarks(trained), *asked)
    return Exported(name, folder / exporter.file, num_bytes, difference, time.perf_counter() - start, remarks)


def _reader(exporter: Exporter, file: Path) -> tuple[tuple[str, ...], Logits]:
    """(a remark on who was asked, for formats with a client of their own; the logits of a file just written)."""
    if exporter.client is None:
        return (), exporter.open(file, torch.device("cpu")).logits
    name, logits = exporter.client(file)
    return (f"compared with the logits that {name} gives",), logits
