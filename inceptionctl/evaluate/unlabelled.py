"""Images without labels: the likeliest classes of each, and the file that the ILSVRC test server takes.

That file has a line an image in the order of their names, five labels by descending confidence. Source: readme.txt of the development
kits of 2012 and 2015, "Submission format" of the classification task. Labels are ILSVRC2012_IDs, which do not count sorted synsets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from torch import Tensor

from inceptionctl.data.audit.probe import FileProbe
from inceptionctl.data.imageset import SUFFIXES, Span, is_image_name, refuse_missing_images
from inceptionctl.data.sources.class_lists import imagenet_ids, read_class_ids, some
from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import DataError
from inceptionctl.evaluate.inputs import folder_of, load_images, load_pictures

NUM_CLASSES_SHOWN = 5
BATCH_SIZE = 16


@dataclass(frozen=True)
class Prediction:
    """The top classes of an image with their probabilities, best first; or why it cannot be decoded."""

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    reason: str | None = None


def images_of(arguments: Sequence[Path]) -> list[Path]:
    """Files as they are named, and of a folder the images at any depth in the order of their names. Raises DataError for what is neither."""
    refuse_missing_images(arguments)
    return [file for path in arguments for file in (_below(path) if path.is_dir() else [path])]


def _below(folder: Path) -> list[Path]:
    """As images of `data` are recognised: by SUFFIXES, links followed, nothing hidden."""

    def refuse(fault: OSError) -> None:
        where = os.fsdecode(fault.filename)
        raise DataError(f"cannot list {where}: {fault.strerror}", "check the folder and its permissions") from fault

    found: list[bytes] = []
    seen = {os.path.realpath(os.fsencode(folder))}  # a link may lead to a folder above it
    for place, folders, files in os.walk(os.fsencode(folder), onerror=refuse, followlinks=True):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders) if not name.startswith(b".")}  # noqa: PTH118
        folders[:] = [name for name, path in real.items() if path not in seen and not seen.add(path)]  # type: ignore[func-returns-value]
        found += [os.path.join(place, name) for name in files if is_image_name(name) and not name.startswith(b".")]  # noqa: PTH118
    if not found:
        raise DataError(f"{folder} holds no images", f"name a folder with files that end in {', '.join(SUFFIXES)}")
    return [Path(os.fsdecode(name)) for name in sorted(found)]


def predict(
    logits: Callable[[Tensor], Tensor],
    class_names: Sequence[str],
    images: Sequence[Path],
    preparation: Preparation,
    *,
    num_threads: int,
    takes_pictures: bool = False,
    top_k: int = NUM_CLASSES_SHOWN,
) -> list[Prediction]:
    """The `top_k` likeliest classes (all, if there are fewer) of each image, in the order given.

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
    answers: Iterator[tuple[tuple[str, float], ...]] = iter(())
    if readable:
        load = load_pictures if takes_pictures else load_images
        batches = load(folder_of(readable), preparation, batch_size=BATCH_SIZE, num_threads=num_threads)
        answers = iter([ranked for batch in batches for ranked in _ranked(logits(batch), class_names, top_k)])
    return [
        Prediction(image, reason=found.reason) if found.reason else Prediction(image, next(answers))
        for image, found in zip(images, findings, strict=True)
    ]


def _ranked(logits: Tensor, class_names: Sequence[str], top_k: int) -> Iterator[tuple[tuple[str, float], ...]]:
    best = logits.softmax(dim=1).topk(min(top_k, len(class_names)), dim=1)
    for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        yield tuple((class_names[i], value) for i, value in zip(indices, values, strict=True))


NUM_LABELS = 5
NUMBERED = re.compile(r"(.*?)([0-9]+)")
# Lines that the server wants, by what stands before an image's number.
SIZES = {"ILSVRC2012_test_": 100_000, "ILSVRC2012_val_": 50_000}


def numeric_order(names: Sequence[str]) -> list[int]:
    """Places of file names in the order of the numbers at their ends, which begin at 1 (or 0) and leave none out.

    Raises DataError for a name without a number, names that differ before it, a number that is there twice, and missing ones: a line
    belongs to an image by its place alone.
    """
    found = [NUMBERED.fullmatch(Path(name).stem) for name in names]
    nameless = [name for name, match in zip(names, found, strict=True) if not match]
    if nameless:
        raise DataError(
            f"no number at the end of the name of {some(nameless, 3)}, so its line is unknown",
            "a submission is of images named like ILSVRC2012_test_00000001.JPEG",
        )
    prefixes = sorted({match[1] for match in found if match})
    if len(prefixes) > 1:
        shown = ", ".join(f"{prefix}..." for prefix in prefixes[:3])
        raise DataError(f"images of {len(prefixes)} kinds: {shown}", "name the images of one set")
    numbers = [int(match[2]) for match in found if match]
    order = sorted(range(len(names)), key=numbers.__getitem__)
    for one, other in pairwise(order):
        if numbers[one] == numbers[other]:
            raise DataError(f"{names[one]} and {names[other]} have the same number", "name one file of each image")
    _refuse_gaps(sorted(numbers))
    return order


def _refuse_gaps(numbers: Sequence[int]) -> None:
    first, last, there = min(1, *numbers[:1]), numbers[-1], set(numbers)
    count = last - first + 1 - len(numbers)
    if count:
        missing = [str(number) for number in islice((n for n in range(first, last) if n not in there), 5)]
        more = f" and {count - 5} more" if count > 5 else ""
        raise DataError(
            f"of the images 1 to {last} {count} {'is' if count == 1 else 'are'} missing: {', '.join(missing)}{more}",
            "the server wants a line for every image",
        )


def lines_lacking(names: Sequence[str]) -> tuple[int, int] | None:
    """(lines of these images, lines that the server wants) where both are known and differ."""
    match = NUMBERED.fullmatch(Path(names[0]).stem) if names else None
    wanted = SIZES.get(match[1]) if match else None
    return (len(names), wanted) if wanted not in (None, len(names)) else None


def ids_of(classes: Sequence[str], file: Path | None) -> list[int]:
    """The label that the server knows each class by: of ImageNet's synsets the ILSVRC2012_ID, or what a file of class names says.

    Raises DataError when a class has none.
    """
    numbers = read_class_ids(file) if file else imagenet_ids()
    unknown = [name for name in classes if name not in numbers]
    if not unknown:
        return [numbers[name] for name in classes]
    if file:
        raise DataError(
            f"{file} has no number for {some(unknown)}", "give every class of the network a line: its name and its number"
        )
    raise DataError(
        f"{len(unknown)} of the network's {len(classes)} classes are no synsets of ImageNet: {some(unknown)}",
        "--class-ids FILE names the label of each class: the development kit, or a text with a class name and its number a line",
    )


def submission(probabilities: Tensor, ids: Sequence[int]) -> str:
    """The text of float32 [N, classes] in the order of the lines: the top-5 classes (all, if there are fewer), best first."""
    # The same choice among equal ones as in the errors (metrics.py).
    best = probabilities.topk(min(NUM_LABELS, probabilities.shape[1]), dim=1).indices
    return "".join(" ".join(str(ids[place]) for place in row) + "\n" for row in best.tolist())
