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
from inceptionctl.export.forms import Exporter
from inceptionctl.export.to_onnx import ONNX
from inceptionctl.export.to_pt2 import PT2
from inceptionctl.export.to_safetensors import SAFETENSORS
from inceptionctl.run import disk_errors, sync_folder, write_atomically

EXPORTERS: dict[str, Exporter] = {
    "onnx": ONNX,
    "safetensors": SAFETENSORS,
    "pt2": PT2,
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
    exporter = EXPORTERS[name]
    files = exporter.write(trained, describe(trained))
    with disk_errors(folder):
        # In the same folder, so that renaming stays on one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            for file, content in files.items():
                write_atomically(temporary / file, content)
            difference = check(exporter.file, exporter.open(temporary / exporter.file, torch.device("cpu")).logits, sample)
            for file in files:
                (temporary / file).replace(folder / file)
            sync_folder(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    num_bytes = sum(len(content) for content in files.values())
    return Exported(name, folder / exporter.file, num_bytes, difference, time.perf_counter() - start)
