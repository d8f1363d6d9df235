"""`inceptionctl data check`: decode every image of a data set once and say what is there. Imports neither torch nor DALI."""

from __future__ import annotations

import os
import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.data.audit.duplicates import DIGEST, Duplicates, find_duplicates
from inceptionctl.data.audit.probe import BAD, KINDS, FileProbe, ImageFinding
from inceptionctl.data.dataset import ImageSet, check_num_classes, open_split, same_classes
from inceptionctl.data.imageset import BESIDE, is_image_name, picture_suffix
from inceptionctl.data.sources import Sources
from inceptionctl.data.sources.class_lists import some
from inceptionctl.data.sources.exclusions import check_used, escaped, name_below, read_exclusions
from inceptionctl.errors import DataError

_FILES_AT_ONCE = 128
_THREADS_A_PROCESS = 2  # more processes of fewer threads: each has one thread of Python to feed its decoders

Progress = Callable[[int, int], None]

# Words for files that are not listed; see also BESIDE.
IN_NESTED = "images in folders inside class folders"
UNNAMED = "images by their content, under another suffix"
OTHER = "other files"


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of some whole numbers; all None when there are none."""

    min: int | None
    median: int | None
    max: int | None


@dataclass(frozen=True)
class Item:
    """An image and what is to be said of it."""

    name: str
    """Below the data set's root, `shard.tar!member` in shards, escaped as in a list of exclusions."""
    remarks: dict[str, str]
    """Words by kind of finding, the bad kinds first."""

    @property
    def kind(self) -> str:
        """The gravest kind."""
        return next(iter(self.remarks))

    @property
    def reason(self) -> str:
        """The gravest remark, with its kind."""
        return f"{self.kind}: {self.remarks[self.kind]}"


@dataclass(frozen=True)
class PassedOver:
    """Files of one kind that are not listed: a suffix, or one of the words above."""

    what: str
    count: int
    example: str
    """Below the data set's root; empty where none is known."""


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split. Sizes in pixels are of the images that decode, after their EXIF orientation."""

    split: str
    folder: str
    num_images: int
    num_groups: int | None
    """Groups that `data.val_fraction` has kept together; None where it was not asked to."""
    bytes: int
    class_counts: dict[str, int]
    images_per_class: Spread
    width: Spread
    height: Spread
    formats: dict[str, int]
    """Number of images by format; it is taken from the content, not from the name."""
    found: dict[str, int]
    """Number of images by kind of finding, without duplicates; an image may be of several."""
    bad: tuple[Item, ...]
    """Images that training would have to leave out."""
    odd: tuple[Item, ...]
    """Images that load right and are worth knowing."""
    passed_over: tuple[PassedOver, ...]
    """Files that are not listed and may be meant to be."""


@dataclass(frozen=True)
class DataReport:
    """What is in a data set."""

    root: str
    splits: tuple[SplitReport, ...]
    duplicates: Duplicates
    problems: tuple[str, ...]
    """What is worth knowing of the data set as a whole, such as images that are in both splits."""
    refused: tuple[tuple[str, str | None], ...]
    """Why a training refuses the data set, each with a hint: a split that is not there, one class alone, classes that differ."""

    @property
    def bad(self) -> list[Item]:
        """The images that cannot be used, over all splits."""
        return [item for split in self.splits for item in split.bad]

    def excluded(self, also: Sequence[str]) -> list[tuple[str, str]]:
        """(name, why) of what a list of exclusions should hold: bad images, and those of the kinds `also`."""
        items = [item for split in self.splits for item in (*split.bad, *split.odd)]
        found = [(item.name, item.reason) for item in items if item.remarks.keys() & {*BAD, *also}]
        more = self.duplicates.superfluous() if "duplicate" in also else []
        return list(dict(reversed([*found, *more])).items())[::-1]

    def to_json(self) -> dict[str, object]:
        """The report as dictionaries, lists, strings and numbers."""
        return asdict(self)


def check(
    root: Path,
    num_threads: int,
    on_progress: Progress = lambda done, total: None,
    *,
    sources: Sources | None = None,
    exif_orientation: bool = True,
) -> DataReport:
    """Decode every image of both splits once; calls `on_progress(done, total)` every few files.

    `sources` are the arguments of `open_split`. An image that cannot be decoded is reported, not raised, and so is a split that cannot be
    opened where there is another. Raises DataError when there is none, and EnvironmentFault when the process that decodes cannot be started.
    """
    sources = sources or {}
    splits, refused = open_what_is_there(root, sources)
    if exclusions := sources.get("exclusions"):
        check_used(read_exclusions(exclusions, root), *splits)
    total, done = sum(map(len, splits)), 0
    tallies = [_Tally(split) for split in splits]
    on_progress(0, total)
    with _Probes(num_threads, exif_orientation) as probes:
        for tally in tallies:
            for start, found in probes.findings(tally.images):
                tally.add(start, found)
                done += len(found)
                on_progress(done, total)
    duplicates = find_duplicates([(tally.images, tally.digests) for tally in tallies])
    problems = (*(words for split in splits for words in _without_images(split)), *duplicates.problems())
    return DataReport(str(root), tuple(tally.report() for tally in tallies), duplicates, problems, tuple(refused))


def open_what_is_there(root: Path, sources: Sources) -> tuple[list[ImageSet], list[tuple[str, str | None]]]:
    """The splits that can be opened, and why a training would refuse the data set: messages with hints. Raises DataError when none can be."""
    splits, faults = list[ImageSet](), list[DataError]()
    for split in ("train", "val"):
        try:
            splits.append(open_split(root, split, **sources))
        except DataError as fault:
            faults.append(fault)
    if not splits:
        raise faults[0]
    try:
        check_num_classes(splits[0])
        if not faults:
            same_classes(*splits)
    except DataError as fault:
        faults.append(fault)
    return splits, [(fault.message, fault.hint) for fault in faults]


class _Probes:
    """Several child processes, each with a few images at a time. A context; its findings come in the order of the images."""

    def __init__(self, num_threads: int, exif_orientation: bool) -> None:
        threads = min(num_threads, _THREADS_A_PROCESS)
        self._all = [FileProbe(threads, exif_orientation) for _ in range(-(-num_threads // threads))]
        self._free: queue.SimpleQueue[FileProbe] = queue.SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> _Probes:
        for probe in self._all:
            self._free.put(self._stack.enter_context(closing(probe)))
        self._pool = self._stack.enter_context(ThreadPoolExecutor(len(self._all)))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def findings(self, images: ImageSet) -> Iterator[tuple[int, list[ImageFinding]]]:
        """(index of the first, findings) of images in succession."""
        waiting: deque[tuple[int, Future[list[ImageFinding]]]] = deque()
        for start in range(0, len(images), _FILES_AT_ONCE):
            stop = min(start + _FILES_AT_ONCE, len(images))
            waiting.append((start, self._pool.submit(self._look_into, images, start, stop)))
            if len(waiting) > 2 * len(self._all):
                first, found = waiting.popleft()
                yield first, found.result()
        for first, found in waiting:
            yield first, found.result()

    def _look_into(self, images: ImageSet, start: int, stop: int) -> list[ImageFinding]:
        probe = self._free.get()
        try:
            return probe.look_into([images.span(i) for i in range(start, stop)])
        finally:
            self._free.put(probe)


class _Tally:
    """What has been found in one split so far. Holds numbers, and names of the bad and odd only: there may be a million images."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.digests = np.zeros(len(images), dtype=DIGEST)
        self._bytes = 0
        self._formats: Counter[str] = Counter()
        self._found: Counter[str] = Counter()
        self._sides = np.zeros((len(images), 2), dtype=np.int32)
        self._bad: list[Item] = []
        self._odd: list[Item] = []

    def add(self, start: int, findings: Sequence[ImageFinding]) -> None:
        """What was found of images in succession."""
        for i, found in enumerate(findings, start):
            self._bytes += found.num_bytes
            self._formats[found.kind] += 1
            remarks = found.all_remarks()
            self._found.update(remarks.keys())
            if found.reason is None:
                self._sides[i] = (found.width, found.height)
                self.digests[i] = np.frombuffer(bytes.fromhex(found.digest), dtype=DIGEST)[0] if found.digest else 0
            if remarks:
                item = Item(escaped(name_below(self.images, i)), {kind: remarks[kind] for kind in KINDS if kind in remarks})
                (self._bad if remarks.keys() & BAD.keys() else self._odd).append(item)

    def report(self) -> SplitReport:
        counts = self.images.class_counts().tolist()
        read = self._sides[self._sides[:, 0] > 0]
        return SplitReport(
            split=self.images.split,
            folder=str(self.images.folder),
            num_images=len(self.images),
            num_groups=self.images.num_groups,
            bytes=self._bytes,
            class_counts=dict(zip(self.images.classes, counts, strict=True)),
            images_per_class=_spread(counts),
            width=_spread(read[:, 0]),
            height=_spread(read[:, 1]),
            formats=dict(self._formats.most_common()),
            found={kind: self._found[kind] for kind in KINDS if self._found[kind]},
            bad=tuple(self._bad),
            odd=tuple(self._odd),
            passed_over=passed_over(self.images),
        )


def _spread(values: Sequence[int] | NDArray[np.int32]) -> Spread:
    if len(values) == 0:
        return Spread(None, None, None)
    return Spread(int(np.min(values)), int(np.median(values)), int(np.max(values)))


def _without_images(images: ImageSet) -> Iterator[str]:
    empty = [images.classes[i] for i in np.flatnonzero(images.class_counts() == 0)]
    if empty:
        what = f"class '{empty[0]}' has" if len(empty) == 1 else f"{len(empty)} classes have"
        named = "" if len(empty) == 1 else f": {some(empty)}"
        yield f"{what} no images in {images.folder}{named}"


def passed_over(images: ImageSet) -> tuple[PassedOver, ...]:
    """All of a split, by kind. Of class folders every file that is not listed is looked at: those inside other folders, and the first bytes
    of those that are not called as images are.
    """
    if images.pieces is not None or not images.folder.is_dir():
        return tuple(PassedOver(what, count, "") for what, count in sorted(images.passed_over.items()))
    counts, examples = Counter[str](), dict[str, str]()
    for path, depth in _files(images.folder):
        what = _passed_as(path, depth - int(images.class_folders))
        if what:
            counts[what] += 1
            examples[what] = min(examples.get(what, "~"), reasons.shown(os.path.relpath(path, os.fsencode(images.root))))
    return tuple(PassedOver(what, counts[what], examples[what]) for what in sorted(counts))


def _files(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Every file that is not hidden nor in a hidden folder, and how many folders deep it lies."""
    top, seen = os.fsencode(folder), set[tuple[int, int]]()
    for found, folders, files in os.walk(top, followlinks=True):
        told = os.stat(found)  # noqa: PTH116  (bytes)
        if (told.st_dev, told.st_ino) in seen:  # a link to a folder above would go round for ever
            folders.clear()
            continue
        seen.add((told.st_dev, told.st_ino))
        folders[:] = [name for name in folders if not name.startswith(b".")]
        depth = 0 if found == top else os.path.relpath(found, top).count(b"/") + 1
        for name in files:
            if not name.startswith(b"."):
                yield os.path.join(found, name), depth  # noqa: PTH118  (bytes)


def _passed_as(path: bytes, too_deep: int) -> str | None:
    """What a file is passed over as; None where it is listed. It lies `too_deep` folders below those that are listed, or -1: beside them."""
    image = is_image_name(path) or picture_suffix(path) is not None
    if image and too_deep:
        return IN_NESTED if too_deep > 0 else BESIDE
    if is_image_name(path):
        return None
    return picture_suffix(path) or (UNNAMED if reasons.look(path)[1] != "unknown" else OTHER)
