"""The export formats: write them, each compared with the checkpoint before it takes its place, and open what was written."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.evaluate.subject import Subject, subject_of
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.export.comparison import Reference, Validation, check, check_pixels
from inceptionctl.export.description import Accuracy, describe
from inceptionctl.export.formats import Exporter, Logits, Opened, logits_of
from inceptionctl.export.to_onnx import ONNX
from inceptionctl.export.to_pt2 import PT2
from inceptionctl.export.to_safetensors import SAFETENSORS
from inceptionctl.export.to_timm import CONFIG, TIMM, read_config
from inceptionctl.export.to_torchscript import TORCHSCRIPT
from inceptionctl.export.to_triton import TRITON
from inceptionctl.run import is_run
from inceptionctl.storage import disk_errors, sha256_of, sync, write_atomically
from inceptionctl.train.checkpoint_choice import Choice
from inceptionctl.train.checkpoint_files import STEP_FOLDER
from inceptionctl.train.step import allow_tf32, resolve_precision

EXPORTERS: dict[str, Exporter] = {
    "onnx": ONNX,
    "safetensors": SAFETENSORS,
    "pt2": PT2,
    "timm": TIMM,
    "triton": TRITON,
    "torchscript": TORCHSCRIPT,
}


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, and how it compares."""

    format: str
    path: Path
    num_bytes: int
    max_difference: float
    """Largest absolute difference of a logit from the checkpoint's, or of a probability if `of` says so."""
    seconds: float
    remarks: tuple[str, ...] = ()
    """What users should know about it."""
    of: Literal["logit", "probability"] = "logit"
    accuracy: Accuracy | None = None
    """What fewer bits cost."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the other files that belong to it, by their names in the folder."""


def export(
    trained: Trained,
    formats: Sequence[str],
    folder: Path,
    reference: Reference,
    on_start: Callable[[str], None] = lambda name: None,
    *,
    exporters: Mapping[str, Exporter] | None = None,
    validation: Validation | None = None,
) -> list[ExportedFile]:
    """Write the formats into `folder`, replacing earlier exports; the network is on the CPU.

    `formats` are keys of `exporters`, by default of EXPORTERS. Those in fewer bits need `validation`.
    Raises CheckpointError when an export does not agree with the checkpoint on `reference`; an earlier export stays.
    Raises EnvironmentFault when the disk refuses.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in dict.fromkeys(formats):
        on_start(name)
        exporter = (EXPORTERS if exporters is None else exporters)[name]
        written.append(_export(name, exporter, trained, folder, reference, validation))
    return written


def _export(
    name: str, exporter: Exporter, trained: Trained, folder: Path, reference: Reference, validation: Validation | None
) -> ExportedFile:
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
            found = _compared(exporter, temporary / exporter.file, reference, validation)
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
    return ExportedFile(name, place, num_bytes, found.difference, seconds, remarks, found.of, found.accuracy, beside)


@dataclass(frozen=True)
class _Comparison:
    difference: float
    of: Literal["logit", "probability"]
    accuracy: Accuracy | None
    remarks: tuple[str, ...]


def _compared(exporter: Exporter, file: Path, reference: Reference, validation: Validation | None) -> _Comparison:
    """A file just written compared with the checkpoint, in each program that it is for. Raises CheckpointError if one disagrees."""
    asked, logits = _reader(exporter, file)
    first = _comparison(exporter, logits, reference, validation, "onnxruntime")
    remarks = list(asked)
    for client in exporter.also:
        name, logits = client(file)
        other = _comparison(exporter, logits, reference, validation, name)
        lost = f", {other.accuracy.loss:.2f} points lost" if other.accuracy else ""
        remarks.append(f"{name} reads it too: largest difference {other.difference:.1e} of a {other.of}{lost}")
        remarks.extend(other.remarks)
    return replace(first, remarks=(*remarks, *first.remarks))


def _comparison(
    exporter: Exporter, logits: Logits, reference: Reference, validation: Validation | None, by: str
) -> _Comparison:
    if exporter.noted is None:
        checked = check_pixels if exporter.takes_pixels else check
        return _Comparison(
            checked(exporter.file, logits, reference), "probability" if exporter.takes_pixels else "logit", None, ()
        )
    assert validation is not None
    accuracy = validation.measure(logits, exporter.takes_pixels)
    doubt = validation.judge(exporter.file, by, accuracy)
    remarks = (doubt,) if doubt else ()
    if accuracy.max_difference is None:
        return _Comparison(accuracy.max_probability_difference, "probability", accuracy, remarks)
    return _Comparison(accuracy.max_difference, "logit", accuracy, remarks)


def _reader(exporter: Exporter, file: Path) -> tuple[tuple[str, ...], Logits]:
    """(a remark on what ran the file, for formats with their own client; the logits of a file just written)."""
    if exporter.client is None:
        return (), exporter.open(file, torch.device("cpu")).logits
    name, logits = exporter.client(file)
    return (f"compared with the logits that {name} gives",), logits


def open_any(path: Path, device: torch.device, which: str | None = None) -> tuple[Opened, Path, Choice | None]:
    """(network, the checkpoint folder or export file that was loaded, why that checkpoint).

    A run gives the EMA weights of the checkpoint `which`, as in `load_trained`; an export folder the first of onnx,
    safetensors, pt2 and timm. Raises CheckpointError, RecipeError for a choice where there is none.
    """
    file = exported_file(path)
    if file is None:
        return _open_checkpoint(path, device, which)
    refuse_choice(file, which)
    return _open_file(file, device), file, None


def subject_of_any(
    path: Path, device: torch.device, precision: Literal["auto", "fp32", "bf16"], which: str | None = None
) -> Subject:
    """The same as a subject of evaluation: a checkpoint on `device`, an export in its own program. Raises as `open_any` does."""
    file = exported_file(path)
    if file is None:
        return subject_of(load_trained(path, "ema", device, which), resolve_precision(precision, device), device)
    refuse_choice(file, which)
    return subject_of_export(file)


def refuse_choice(file: Path, which: str | None) -> None:
    """Raise RecipeError if a checkpoint is chosen for an exported file."""
    if which is not None:
        raise RecipeError(f"--checkpoint {which}: {file} is an export, of one checkpoint", "leave it out, or name the run")


def exported_file(path: Path) -> Path | None:
    """`path` itself if it is a file, the first export in a folder of them, variants last; None for runs and checkpoints."""
    if path.is_file():
        return path
    if not path.is_dir() or is_run(path) or STEP_FOLDER.fullmatch(path.name) or (path / "progress.json").exists():
        return None
    plain = (path / exporter.file for exporter in EXPORTERS.values())
    variants = sorted([*path.glob("model_*.onnx"), *path.glob(TRITON.file.format(network="*"))])
    return next((file for file in (*plain, *variants) if file.is_file()), None)


def subject_of_export(path: Path) -> Subject:
    """An exported file to evaluate, on the CPU in its own program. Raises CheckpointError."""
    opened = _open_file(path, torch.device("cpu"))
    told = opened.description
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
        sha256_of(path),
        takes_pictures=told.pixels_in,
    )


def _open_file(path: Path, device: torch.device) -> Opened:
    if path.suffix == ".safetensors" and read_config(path.with_name(CONFIG)) is not None:
        return TIMM.open(path, device)
    for exporter in EXPORTERS.values():
        if path.suffix == Path(exporter.file).suffix:
            return exporter.open(path, device)
    known = ", ".join(exporter.file for exporter in EXPORTERS.values())
    raise CheckpointError(f"{path} is not an export", f"name a run directory, a checkpoint folder, or one of {known}")


def _open_checkpoint(path: Path, device: torch.device, which: str | None) -> tuple[Opened, Path, Choice | None]:
    trained = load_trained(path, "ema", device, which)
    allow_tf32(trained.recipe.train.tf32)
    return Opened(describe(trained), logits_of(trained.model, device)), trained.checkpoint, trained.choice
