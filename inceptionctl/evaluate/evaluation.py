"""`inceptionctl evaluate`: errors of a trained network on the validation images, by the single-crop protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionctl.data.dataset import ImageFolder, open_split
from inceptionctl.data.loaders import Batch, Decode, EvalLoader
from inceptionctl.errors import DataError
from inceptionctl.evaluate.preparation import preparation_of
from inceptionctl.evaluate.scoring import confusion_matrix, score
from inceptionctl.evaluate.trained import Trained
from inceptionctl.run import disk_errors, write_atomically
from inceptionctl.train.precision import Precision

MOST_MATRIX_CLASSES = 100
MOST_PAIRS = 50

OnProgress = Callable[[int, int], None]


def evaluate(
    trained: Trained,
    data_root: Path,
    *,
    precision: Precision,
    batch_size: int,
    device: torch.device,
    num_threads: int,
    decode: Decode,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Any]:
    """Run the network over every validation image of `data_root` once; give the result as JSON values.

    Errors are in percent, `loss` is the mean cross entropy without smoothing. `confusion` is the matrix (row: true class,
    column: predicted, in the order of `classes`) up to 100 classes, else the 50 most confused pairs. `on_progress` is called
    with (images done, images in all). Raises DataError when the class folders are not the checkpoint's, or an image cannot be
    decoded.
    """
    start = time.perf_counter()
    preparation = preparation_of(trained.recipe)
    images = open_split(data_root, "val")
    check_classes(images, trained)
    loader = EvalLoader(
        images,
        **preparation.options(),
        batch_size=batch_size,
        rank=0,
        world_size=1,
        num_threads=num_threads,
        device_id=device.index if device.type == "cuda" else None,
        decode=decode,
    )
    # The loader's images are channels_last; with weights to match nothing is copied on the way.
    model = trained.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with closing(loader):
        scores = score(model, _counted(loader, len(images), on_progress), device=device, precision=precision)
    seconds = time.perf_counter() - start
    matrix = confusion_matrix(scores.predicted, scores.labels, len(trained.classes))
    return {
        "protocol": "single",
        "preparation": preparation.in_words(),
        **preparation.options(),
        "mean": list(preparation.mean),
        "std": list(preparation.std),
        "weights": trained.weights,
        "step": trained.step,
        "checkpoint": str(trained.checkpoint),
        "data_root": str(data_root),
        "num_images": scores.num_images,
        "top1_error": scores.top1_error,
        "top5_error": scores.top5_error,
        "loss": scores.loss,
        "precision": precision,
        "device": device.type,
        "seconds": seconds,
        "images_per_second": scores.num_images / seconds,
        "classes": list(trained.classes),
        "per_class": _per_class(matrix, trained.classes),
        "confusion": matrix.tolist() if len(trained.classes) <= MOST_MATRIX_CLASSES else most_confused(matrix, trained.classes),
    }


def _counted(loader: Iterable[Batch], total: int, on_progress: OnProgress) -> Iterator[Batch]:
    done = 0
    for batch in loader:
        yield batch
        done += len(batch.labels)
        on_progress(done, total)


def check_classes(images: ImageFolder, trained: Trained) -> None:
    """Raise DataError unless the class folders are the classes that the network was trained on, in the same order."""
    if images.classes == trained.classes:
        return
    parts = []
    for where, one, other in (
        ("the data", images.classes, trained.classes),
        ("the checkpoint", trained.classes, images.classes),
    ):
        only = sorted(set(one) - set(other))
        if only:
            parts.append(f"only in {where}: {', '.join(only[:10])}" + (f" and {len(only) - 10} more" if len(only) > 10 else ""))
    differ = "; ".join(parts) or "their order differs"
    raise DataError(
        f"the class folders of {images.folder} are not the classes of {trained.checkpoint}; {differ}",
        "name the data set that it was trained on with --data, or rename the folders to the checkpoint's class names",
    )


def _per_class(matrix: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    totals, correct = matrix.sum(1).tolist(), matrix.diagonal().tolist()
    return {
        name: {"num_images": total, "top1_error": 100.0 * (1.0 - right / total)}
        for name, total, right in zip(classes, totals, correct, strict=True)
    }


def most_confused(matrix: Tensor, classes: Sequence[str], most: int = MOST_PAIRS) -> list[dict[str, Any]]:
    """The pairs of different classes that were confused most often, as true, predicted and count; none that never were."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    counts, places = wrong.sort(descending=True, stable=True)
    pairs = [(place, count) for place, count in zip(places[:most].tolist(), counts[:most].tolist(), strict=True) if count]
    return [
        {"true": classes[place // len(classes)], "predicted": classes[place % len(classes)], "count": count}
        for place, count in pairs
    ]


def result_file(trained: Trained) -> Path | None:
    """Where the run keeps this evaluation; None for a checkpoint outside of a run."""
    return trained.run.evaluations / f"step-{trained.step:08d}_{trained.weights}_single.json" if trained.run else None


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write a result whole or not at all. Raises EnvironmentFault when the disk refuses."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
