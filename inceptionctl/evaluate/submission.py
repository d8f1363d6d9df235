"""The file that the ILSVRC test server takes: a line an image in the order of their names, five labels by descending confidence.

Source: readme.txt of the development kits of 2012 and 2015, "Submission format" of the classification task. Labels are ILSVRC2012_IDs,
which do not count sorted synsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

from torch import Tensor

from inceptionctl.data.sources.class_lists import imagenet_ids, read_class_ids, some
from inceptionctl.errors import DataError

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
            f"no number at the end of the name of {some(nameless, 3)}, so nobody knows which line it has",
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
    """The text of float32 [N, classes] in the order of the lines: the five likeliest (all, where there are fewer), the first surest."""
    # The same choice among equal ones as in the errors (metrics.py).
    best = probabilities.topk(min(NUM_LABELS, probabilities.shape[1]), dim=1).indices
    return "".join(" ".join(str(ids[place]) for place in row) + "\n" for row in best.tolist())
