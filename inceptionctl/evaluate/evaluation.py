"""`inceptionctl evaluate`: errors of a trained network on the validation images, by one of the paper's protocols."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, PictureLoader, ViewLoader, in_batches
from inceptionctl.errors import DataError
from inceptionctl.evaluate.classwise import classwise
from inceptionctl.evaluate.crops import crop_probabilities, in_order
from inceptionctl.evaluate.metrics import confusion_matrix, figures
from inceptionctl.evaluate.records import name_below_root, write_record
from inceptionctl.evaluate.results import About, Confused, EnsembleResult, HowAnswered, Result
from inceptionctl.evaluate.subject import Subject
from inceptionctl.protocols import Protocol
from inceptionctl.storage import disk_errors, write_atomically

MAX_MATRIX_CLASSES = 100
MAX_PAIRS = 50
# An image of 144 crops is many batches by itself; what an interruption loses should stay small.
IMAGES_AT_ONCE, FEW_VIEWS = 4, 24
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Work:
    """An evaluation to run: the images in batches that do not depend on the number of ranks, the network and the protocol."""

    subject: Subject
    images: ImageSet
    protocol: Protocol | None
    """None is the single crop of the recipe."""
    batch_size: int
    """Crops of a forward pass at most."""
    loading: LoaderSettings
    subset: str = "all"
    """Which images of the data set these are."""
    bad: BadImages | None = None
    """Takes the images that cannot be decoded, whose probabilities are NaN; None: the first is an error."""

    @property
    def batches(self) -> list[range]:
        """Indices of the images of each batch."""
        size = self.batch_size
        if self.protocol:
            few = not self.protocol.dense and len(self.protocol.views(1, 1)) <= FEW_VIEWS
            size = 4 * IMAGES_AT_ONCE if few else IMAGES_AT_ONCE
        return in_batches(range(len(self.images)), size)

    @property
    def num_workers(self) -> int:
        """Threads that run the network side by side; 0 where it uses all cores itself."""
        return self.loading.num_threads if self.subject.in_threads else 0

    @property
    def identity(self) -> dict[str, object]:
        """What two evaluations share if they are bit-identical on one machine."""
        names = hashlib.sha256()
        for i in range(len(self.images)):
            names.update(f"{name_below_root(self.images, i)}\0{int(self.images.labels[i])}\0".encode())
        return {
            "version": 1,
            "weights": self.subject.sha256,
            "precision": self.subject.precision,
            "tf32": self.subject.tf32,
            "device": self.subject.device.type,
            "torch": torch.__version__,
            "preparation": asdict(self.subject.preparation),
            "protocol": None if self.protocol is None else [self.protocol.name, *self.protocol.shorter_sides],
            "batch_size": self.batch_size,
            "images": names.hexdigest(),
            **({} if self.bad is None else {"bad_images": "nan"}),
        }


def answers(work: Work, batches: Sequence[range]) -> Iterator[Tensor]:
    """Probabilities float32 [images, classes] on the CPU of each batch.

    An image that cannot be decoded has a row of NaN and is noted in `work.bad`; where that is None, raises DataError.
    """
    found = _answers_of_good(work, batches) if batches else iter(())
    return found if work.bad is None else _in_their_rows(work, batches, found, work.bad)


def _in_their_rows(work: Work, batches: Sequence[range], found: Iterator[Tensor], bad: BadImages) -> Iterator[Tensor]:
    """Probabilities of every image of each batch, from those of the images that a loader has not left out."""
    answered = next(found, None)
    for batch in batches:
        rows = torch.full((len(batch), len(work.subject.classes)), math.nan)
        # A loader has noted what is bad in a batch before that batch, or the one after it, comes out.
        good = [k for k, i in enumerate(batch) if work.images.name(i) not in bad]
        if good:
            if answered is None or len(answered) != len(good):
                where = f"{work.images.name(batch[0])} and the {len(batch) - 1} after it"
                raise DataError(f"files changed while they were read: {where}", "rerun the same command")
            rows[good] = answered
            answered = next(found, None)
        yield rows


def _answers_of_good(work: Work, batches: Sequence[range]) -> Iterator[Tensor]:
    """The same without the rows of images that cannot be decoded, and without batches that consist of them."""
    if work.subject.takes_pictures:
        upright = work.subject.preparation.exif_orientation
        pictures = PictureLoader(work.images, batches, work.loading, exif_orientation=upright, bad=work.bad)
        with closing(pictures):
            for batch in pictures:
                yield torch.cat([_answer(work, picture[None]) for picture in batch])
        return
    if work.protocol is None:
        loader = EvalLoader(work.images, batches, work.subject.preparation, work.loading, bad=work.bad)
        with closing(loader):
            yield from in_order(lambda batch: _answer(work, batch.images), loader, work.num_workers)
        return
    squares = work.protocol.squares if work.protocol.whole_square else ()
    with closing(view_loader(work, batches, work.protocol.shorter_sides, squares)) as loaded:
        yield from crop_probabilities(
            loaded,
            work.protocol,
            answering(work),
            batch_size=work.batch_size,
            num_workers=work.num_workers,
        )


def view_loader(work: Work, batches: Sequence[range], shorter_sides: Sequence[int], squares: Sequence[str]) -> ViewLoader:
    """The images of `batches` at these sizes, with the network's preprocessing."""
    return ViewLoader(
        work.images,
        batches,
        work.subject.preparation,
        work.loading,
        shorter_sides=shorter_sides,
        squares=squares,
        bad=work.bad,
    )


def answering(work: Work) -> Callable[[Tensor], Tensor]:
    """A function from crops uint8 [N, height, width, 3] to probabilities float32 [N, classes] on the CPU."""
    subject = work.subject
    normalise = _normaliser(subject.preparation.mean, subject.preparation.std, subject.device)
    return lambda pixels: _answer(work, normalise(pixels))


def _answer(work: Work, images: Tensor) -> Tensor:
    return work.subject.logits(images).float().softmax(1).cpu()


def _normaliser(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Callable[[Tensor], Tensor]:
    shift = torch.tensor([255.0 * value for value in mean], device=device)
    scale = torch.tensor([255.0 * value for value in std], device=device)

    def normalise(pixels: Tensor) -> Tensor:
        # HWC seen as CHW is channels_last.
        return ((pixels.to(device).float() - shift) / scale).permute(0, 3, 1, 2)

    return normalise


def result_of(work: Work, probabilities: Floats, num_answered: int, seconds: float) -> Result:
    """The result as JSON values, from the probabilities of every image.

    `num_answered` images took `seconds`; the others come from an interrupted evaluation.
    """
    subject, classes = work.subject, work.subject.classes
    numbers = work.images.labels.astype(np.int64)
    answers, labels = torch.from_numpy(probabilities), torch.from_numpy(numbers)
    matrix = confusion_matrix(answers.argmax(1), labels, len(classes))
    return {
        **how_answered(work),
        "subset": work.subset,
        **figures(answers, labels),
        "precision": subject.precision,
        "tf32": subject.tf32,
        "device": subject.device.type,
        "seconds": seconds,
        "images_per_second": num_answered / seconds,
        "classes": list(classes),
        **classwise(probabilities, numbers, classes),
        "confusion": matrix.tolist() if len(classes) <= MAX_MATRIX_CLASSES else most_confused(matrix, classes),
    }


def how_answered(work: Work) -> HowAnswered:
    """Protocol, preprocessing, network and data of an evaluation, as JSON values."""
    subject, preparation = work.subject, work.subject.preparation
    return {
        "protocol": work.protocol.name if work.protocol else "single",
        "preparation": work.protocol.in_words() if work.protocol else preparation.in_words(),
        "scales": list(work.protocol.shorter_sides) if work.protocol else None,
        "input_px": preparation.input_px,
        "central_fraction": preparation.central_fraction,
        "keep_aspect": preparation.keep_aspect,
        "interpolation": preparation.interpolation,
        "antialias": preparation.antialias,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
        "exif_orientation": preparation.exif_orientation,
        "network": subject.network,
        "weights": subject.weights,
        "step": subject.step,
        "checkpoint": str(subject.source),
        "chosen": subject.choice and subject.choice.to_json(),
        "data_root": str(work.images.root),
        "data_root_absolute": str(work.images.root.absolute()),
    }


def check_classes(images: ImageSet, classes: tuple[str, ...], source: Path) -> None:
    """Raise DataError unless the class folders are the classes that the network was trained on, in the same order."""
    if images.classes == classes:
        return
    parts = []
    for where, one, other in (
        ("the data", images.classes, classes),
        ("the checkpoint", classes, images.classes),
    ):
        only = sorted(set(one) - set(other))
        if only:
            parts.append(f"only in {where}: {', '.join(only[:10])}" + (f" and {len(only) - 10} more" if len(only) > 10 else ""))
    differ = "; ".join(parts) or "their order differs"
    raise DataError(
        f"the class folders of {images.folder} are not the classes of {source}; {differ}",
        "name the data set that it was trained on with --data, or rename the folders to the checkpoint's class names",
    )


def most_confused(matrix: Tensor, classes: Sequence[str], most: int = MAX_PAIRS) -> list[Confused]:
    """The pairs of classes confused most often, as true, predicted and count."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    counts, places = wrong.sort(descending=True, stable=True)
    pairs = [(place, count) for place, count in zip(places[:most].tolist(), counts[:most].tolist(), strict=True) if count]
    return [
        {"true": classes[place // len(classes)], "predicted": classes[place % len(classes)], "count": count}
        for place, count in pairs
    ]


def write_result(result: Result | EnsembleResult, path: Path) -> None:
    """Write a result atomically. Raises EnvironmentFault when the disk refuses."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def write_probabilities(work: Work, probabilities: Floats, result: Result, path: Path) -> None:
    """Write them beside the result, with its description in the metadata."""
    write_record(path, work.images, probabilities, without_tables(result))


def without_tables(result: Result | EnsembleResult) -> About:
    """What a file of probabilities keeps of a result."""
    kept = {key: value for key, value in result.items() if key not in ("per_class", "confusion", "calibration")}
    return cast(About, kept)
