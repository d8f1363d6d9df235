"""`inceptionctl data check`: decode every image of a data set once and say what is there. Imports neither torch nor DALI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.dataset import ImageSet, open_split, same_classes
from inceptionctl.data.probing import FileProbe
from inceptionctl.errors import DataError

_FILES_AT_ONCE = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of some whole numbers; all None when there are none."""

    min: int | None
    median: int | None
    max: int | None


@dataclass(frozen=True)
class FileRemark:
    """A file and what is to be said of it."""

    path: str
    reason: str


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split. Sizes in pixels are of the images that decode, after their EXIF orientation."""

    split: str
    folder: str
    num_images: int
    bytes: int
    class_counts: dict[str, int]
    images_per_class: Spread
    width: Spread
    height: Spread
    formats: dict[str, int]
    """Number of files by kind; the kind is taken from the content, not from the name."""
    unreadable: tuple[FileRemark, ...]
    remarks: tuple[FileRemark, ...]
    """Files that decode although a decoder complains about them, for instance about a damaged part."""


@dataclass(frozen=True)
class DataReport:
    """What is in a data set."""

    root: str
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...]
    """What is wrong with the data set as a whole, such as class folders that differ between the splits."""

    @property
    def num_unreadable(self) -> int:
        """Files that cannot be decoded, over all splits."""
        return sum(len(split.unreadable) for split in self.splits)

    def to_json(self) -> dict[str, Any]:
        """The report as dictionaries, lists, strings and numbers."""
        return asdict(self)


def check(root: Path, num_threads: int, on_progress: Progress | None = None) -> DataReport:
    """Decode every image under root/train and root/val once; calls `on_progress(done, total)` every few files.

    An image that cannot be decoded is reported, not raised. Raises DataError when a split or a class is missing or empty, and
    EnvironmentFault when the process that decodes cannot be started.
    """
    folders = [open_split(root, "train"), open_split(root, "val")]
    total, done = sum(map(len, folders)), 0
    tallies = [_Tally(folder) for folder in folders]
    with closing(FileProbe(num_threads)) as probe:
        for tally in tallies:
            for start in range(0, len(tally.folder), _FILES_AT_ONCE):
                done += tally.add(start, probe)
                if on_progress is not None:
                    on_progress(done, total)
    return DataReport(str(root), tuple(tally.report() for tally in tallies), tuple(_problems(*folders)))


class _Tally:
    """What has been found in one split so far. Holds numbers, not findings: a split may have a million files."""

    def __init__(self, folder: ImageSet) -> None:
        self.folder = folder
        self._bytes = 0
        self._formats: Counter[str] = Counter()
        self._sides = np.zeros((len(folder), 2), dtype=np.int32)
        self._unreadable: list[FileRemark] = []
        self._remarks: list[FileRemark] = []

    def add(self, start: int, probe: FileProbe) -> int:
        """Look into the next files from `start` on; returns how many they were."""
        indices = range(start, min(start + _FILES_AT_ONCE, len(self.folder)))
        for i, found in zip(indices, probe.look_into([self.folder.span(i) for i in indices]), strict=True):
            self._bytes += found.num_bytes
            self._formats[found.kind] += 1
            if found.reason:
                self._unreadable.append(FileRemark(found.name, found.reason))
            else:
                self._sides[i] = (found.width, found.height)
            if found.remark:
                self._remarks.append(FileRemark(found.name, found.remark))
        return len(indices)

    def report(self) -> SplitReport:
        counts = self.folder.class_counts().tolist()
        read = self._sides[self._sides[:, 0] > 0]
        return SplitReport(
            split=self.folder.split,
            folder=str(self.folder.folder),
            num_images=len(self.folder),
            bytes=self._bytes,
            class_counts=dict(zip(self.folder.classes, counts, strict=True)),
            images_per_class=_spread(counts),
            width=_spread(read[:, 0]),
            height=_spread(read[:, 1]),
            formats=dict(self._formats.most_common()),
            unreadable=tuple(self._unreadable),
            remarks=tuple(self._remarks),
        )


def _spread(values: Sequence[int] | NDArray[np.int32]) -> Spread:
    if len(values) == 0:
        return Spread(None, None, None)
    return Spread(int(np.min(values)), int(np.median(values)), int(np.max(values)))


def _problems(train: ImageSet, val: ImageSet) -> Iterator[str]:
    try:
        same_classes(train, val)
    except DataError as error:
        yield error.message
