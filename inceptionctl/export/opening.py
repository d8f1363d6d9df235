"""Whatever the user names - a run, a checkpoint, an export or its folder - as something that can be asked for logits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.evaluate.subject import Subject, subject_of
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.export.description import describe
from inceptionctl.export.exporting import EXPORTERS
from inceptionctl.export.forms import Opened
from inceptionctl.export.to_timm import CONFIG, TIMM, read_config
from inceptionctl.run import is_run
from inceptionctl.train.checkpoint_choice import Choice
from inceptionctl.train.checkpoint_files import STEP_FOLDER
from inceptionctl.train.step import allow_tf32, resolve_precision


def open_any(path: Path, device: torch.device, which: str | None = None) -> tuple[Opened, Path, Choice | None]:
    """(network, the checkpoint folder or export file that was taken, why that checkpoint).

    A run gives the averaged weights of the checkpoint that `which` names, as in `load_trained`; an export folder the first of onnx,
    safetensors, pt2 and timm. Raises CheckpointError, RecipeError for a choice where there is none.
    """
    file = _exported_file(path)
    if file is None:
        return _open_checkpoint(path, device, which)
    refuse_choice(file, which)
    return _open_file(file, device), file, None


def subject_of_any(
    path: Path, device: torch.device, precision: Literal["auto", "fp32", "bf16"], which: str | None = None
) -> Subject:
    """The same as something to be evaluated: a checkpoint on `device`, an export as its program computes it. Raises as `open_any` does."""
    file = _exported_file(path)
    if file is None:
        return subject_of(load_trained(path, "ema", device, which), resolve_precision(precision, device), device)
    refuse_choice(file, which)
    return subject_of_export(file)


def refuse_choice(file: Path, which: str | None) -> None:
    """Raise RecipeError where a checkpoint is to be chosen of an exported file."""
    if which is not None:
        raise RecipeError(f"--checkpoint {which}: {file} is an export, of one checkpoint", "leave it out, or name the run")


def _exported_file(path: Path) -> Path | None:
    """`path` itself if it is a file, the first export in a folder of them; None for runs and checkpoints."""
    if path.is_file():
        return path
    if not path.is_dir() or is_run(path) or STEP_FOLDER.fullmatch(path.name) or (path / "progress.json").exists():
        return None
    return next((path / exporter.file for exporter in EXPORTERS.values() if (path / exporter.file).is_file()), None)


def subject_of_export(path: Path) -> Subject:
    """An exported file to be evaluated, on the CPU as its program computes it. Raises CheckpointError."""
    opened = _open_file(path, torch.device("cpu"))
    told = opened.description
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Subject(
        opened.logits,
        tuple(told.class_names),
        told.preparation,
        torch.device("cpu"),
        told.precision,
        told.weights,
        told.step,
        path,
        told.architecture,
        sha256,
        takes_pictures=told.pixels_in,
    )


def _open_file(path: Path, device: torch.device) -> Opened:
    if path.suffix == ".safetensors" and read_config(path.with_name(CONFIG)) is not None:
        return TIMM.open(path, device)
    for exporter in EXPORTERS.values():
        if path.suffix == Path(exporter.file).suffix:
            return exporter.open(path, device)
    known = ", ".join(exporter.file for exporter in EXPORTERS.values())
    raise CheckpointError(f"{path} is no export", f"name a run directory, a checkpoint folder, or one of {known}")


def _open_checkpoint(path: Path, device: torch.device, which: str | None) -> tuple[Opened, Path, Choice | None]:
    trained = load_trained(path, "ema", device, which)

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        allow_tf32(trained.recipe.train.tf32)
        result: Tensor = trained.model(images.to(device)).float().cpu()
        return result

    return Opened(describe(trained), logits), trained.checkpoint, trained.choice
