"""`inceptionctl predict`: the likeliest classes of single images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from inceptionctl.data.audit.probe import FileProbe
from inceptionctl.data.imageset import SUFFIXES, Span, is_image_name, refuse_missing_images
from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import DataError
from inceptionctl.evaluate.images import load_images, load_pictures_of

NUM_CLASSES_SHOWN = 5
BATCH_SIZE = 16


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image with their probabilities, the likeliest first; or why it cannot be decoded."""

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    reason: str | None = None


def images_of(arguments: Sequence[Path]) -> list[Path]:
    """Files as they are named, and of a folder the images in it in the order of their names. Raises DataError for what is neither."""
    refuse_missing_images(arguments)
    return [file for path in arguments for file in (_in_folder(path) if path.is_dir() else [path])]


def _in_folder(folder: Path) -> list[Path]:
    found = [name for name in os.listdir(os.fsencode(folder)) if is_image_name(name) and not name.startswith(b".")]  # noqa: PTH208
    if not found:
        raise DataError(f"{folder} holds no images", f"name a folder with files that end in {', '.join(SUFFIXES)}")
    return [folder / os.fsdecode(name) for name in sorted(found)]


def predict(
    logits: Callable[[Tensor], Tensor],
    class_names: Sequence[str],
    images: Sequence[Path],
    preparation: Preparation,
    *,
    num_threads: int,
    takes_pictures: bool = False,
) -> list[Prediction]:
    """The five likeliest classes (all, where there are fewer) of each image, in the order given.

    `logits` takes images float32 [N, 3, px, px] on the CPU, prepared as told, or where `takes_pictures` uint8 [1, height, width, 3]
    as decoded, and gives float32 [N, number of classes] there.
    One that cannot be decoded has a `reason` and no classes. Raises DataError for files that do not exist.
    """
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        raise DataError(f"no such image file: {', '.join(missing)}", "name files, not folders")
    with closing(FileProbe(num_threads, preparation.exif_orientation)) as probe:
        findings = probe.look_into([Span(os.fsencode(image)) for image in images])
    readable = [image for image, found in zip(images, findings, strict=True) if found.reason is None]
    load = load_pictures_of if takes_pictures else load_images
    batches = load(readable, preparation, batch_size=BATCH_SIZE, num_threads=num_threads)
    answers = iter([ranked for batch in batches for ranked in _ranked(logits(batch), class_names)])
    return [
        Prediction(image, reason=found.reason) if found.reason else Prediction(image, next(answers))
        for image, found in zip(images, findings, strict=True)
    ]


def _ranked(logits: Tensor, class_names: Sequence[str]) -> Iterator[tuple[tuple[str, float], ...]]:
    best = logits.softmax(dim=1).topk(min(NUM_CLASSES_SHOWN, len(class_names)), dim=1)
    for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        yield tuple((class_names[i], value) for i, value in zip(indices, values, strict=True))
