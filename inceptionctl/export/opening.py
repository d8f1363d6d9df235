"""Whatever the user names - a run, a checkpoint, an export or its folder - as something that can be asked for logits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.subject import Subject
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.export.description import describe
from inceptionctl.export.exporting import EXPORTERS
from inceptionctl.export.forms import Opened
from inceptionctl.export.to_timm import CONFIG, TIMM, read_config
from inceptionctl.run import is_run
from inceptionctl.train.checkpoint_files import STEP_FOLDER


def open_any(path: Path, device: torch.device) -> tuple[Opened, Path]:
    """(network, the checkpoint folder or export file that was taken).

    A run gives the averaged weights of its newest checkpoint, an export folder the first of onnx, safetensors, pt2 and timm.
    Raises CheckpointError.
    """
    if path.is_file():
        return _open_file(path, device), path
    if path.is_dir() and not is_run(path) and not STEP_FOLDER.fullmatch(path.name):
        found = [path / exporter.file for exporter in EXPORTERS.values() if (path / exporter.file).is_file()]
        if found and not (path / "progress.json").exists():
            return _open_file(found[0], device), found[0]
    return _open_checkpoint(path, device)


def subject_of_export(path: Path) -> Subject:
    """An exported file to be evaluated, on the CPU in fp32 as its program computes it. Raises CheckpointError."""
    opened = _open_file(path, torch.device("cpu"))
    told = opened.description
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Subject(
        opened.logits,
        tuple(told.class_names),
        told.preparation,
        torch.device("cpu"),
        "fp32",
        told.weights,
        told.step,
        path,
        told.architecture,
        sha256,
    )


def _open_file(path: Path, device: torch.device) -> Opened:
    if path.suffix == ".safetensors" and read_config(path.with_name(CONFIG)) is not None:
        return TIMM.open(path, device)
    for exporter in EXPORTERS.values():
        if path.suffix == Path(exporter.file).suffix:
            return exporter.open(path, device)
    known = ", ".join(exporter.file for exporter in EXPORTERS.values())
    raise CheckpointError(f"{path} is no export", f"name a run directory, a checkpoint folder, or one of {known}")


def _open_checkpoint(path: Path, device: torch.device) -> tuple[Opened, Path]:
    trained = load_trained(path, "ema", device)

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        result: Tensor = trained.model(images.to(device)).float().cpu()
        return result

    return Opened(describe(trained), logits), trained.checkpoint
