"""One evaluation from its first to its last image, by one process or as one of several ranks; an interrupted one resumes.

Probabilities are saved in parts while it runs, and any number of ranks can resume from them.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from inceptionctl.errors import DataError
from inceptionctl.evaluate.evaluation import Floats, Work, answers
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.words import counted

PART = re.compile(r"part-(\d{8})-(\d{8})\.npy")


class Parts:
    """A folder of files, each with the probabilities float32 [images, classes] of consecutive batches, and the evaluation's identity."""

    def __init__(self, folder: Path, batches: list[range]) -> None:
        self.folder, self._batches = folder, batches

    def begin(self, identity: Mapping[str, object]) -> bool:
        """Create the folder, or resume in it; start over if it belongs to another evaluation. Whether it held usable parts."""
        file = self.folder / "identity.json"
        text = json.dumps(identity, sort_keys=True)
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            return any(True for _ in self.folder.glob("part-*.npy"))
        shutil.rmtree(self.folder, ignore_errors=True)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True)
        write_atomically(file, text)
        return False

    def missing(self) -> list[int]:
        """Indices of the batches that are not saved yet."""
        done = {number for first, last, _ in self._files() for number in range(first, last + 1)}
        return [number for number in range(len(self._batches)) if number not in done]

    def write(self, first: int, last: int, probabilities: Floats, bad: Sequence[tuple[str, str]] = ()) -> None:
        """Save the batches `first` to `last`, and (name, reason) of bad images in them. Raises EnvironmentFault when the disk refuses."""
        if bad:
            write_atomically(self.folder / f"bad-{first:08d}-{last:08d}.json", json.dumps(dict(bad)))
        data = io.BytesIO()
        np.save(data, probabilities)
        write_atomically(self.folder / f"part-{first:08d}-{last:08d}.npy", data.getvalue())

    def collect(self) -> Floats:
        """All batches in order, [images, classes]. Raises DataError when files were removed or changed meanwhile."""
        if self.missing():
            raise DataError(f"{self.folder} lacks parts that were saved", "rerun the same command")
        parts: dict[int, Floats] = {}
        for first, last, file in self._files():
            images = range(self._batches[first].start, self._batches[last].stop)
            parts[images.start] = _load(file, len(images))
        joined = np.concatenate([parts[start] for start in sorted(parts)])
        if len(joined) != self._batches[-1].stop:
            raise DataError(f"the parts in {self.folder} overlap", f"remove the folder {self.folder}")
        return joined

    def reasons(self) -> dict[str, str]:
        """Why images could not be decoded, by name."""
        found: dict[str, str] = {}
        for file in sorted(self.folder.glob("bad-*.json")):
            found |= json.loads(file.read_text(encoding="utf-8"))
        return found

    def remove(self) -> None:
        """Remove the folder, once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[tuple[int, int, Path]]:
        found = ((PART.fullmatch(file.name), file) for file in sorted(self.folder.glob("part-*.npy")))
        return [(int(match[1]), int(match[2]), file) for match, file in found if match]


def _load(file: Path, num_images: int) -> Floats:
    try:
        part: Floats = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}", f"remove it and rerun the same command: rm {file}") from None
    if part.ndim != 2 or len(part) != num_images:
        raise DataError(f"{file} holds {part.shape} numbers for {num_images} images", f"remove it: rm {file}")
    return part


SECONDS_BETWEEN_PARTS = 10.0
SECONDS_BETWEEN_LOOKS = 0.5

OnProgress = Callable[[int, int], None]


class _Begun(TypedDict):
    goes_on: bool
    """Whether an interrupted evaluation has left something."""
    missing: list[int]


@dataclass(frozen=True)
class Ranks:
    """This process among those that share an evaluation. They synchronise once, before the first image, then only through files."""

    rank: int = 0
    size: int = 1
    on_rank_zero: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """Runs a function on rank 0 and gives its JSON-like result to all."""


@dataclass(frozen=True)
class Answers:
    """The probabilities of every image, in order."""

    probabilities: Floats
    """[images, classes]."""
    parts: Parts
    num_answered: int
    """Images that this evaluation computed; the others were saved by an interrupted one."""
    seconds: float


def answer(work: Work, parts: Parts, mine: Sequence[int], on_progress: OnProgress = lambda done, total: None) -> None:
    """Compute the batches with the indices `mine`, and save the probabilities in `parts` every ten seconds and when interrupted.

    Raises DataError when an image cannot be decoded and `work.bad` is None.
    """
    batches = work.batches
    held: list[Floats] = []
    first = last = -1
    written = time.monotonic()
    done, total = 0, sum(len(batches[number]) for number in mine)

    def keep() -> None:
        if held:
            parts.write(first, last, np.concatenate(held), () if work.bad is None else work.bad.take_fresh())
            held.clear()

    try:
        for number, probabilities in zip(mine, answers(work, [batches[number] for number in mine]), strict=True):
            if held and (number != last + 1 or time.monotonic() - written > SECONDS_BETWEEN_PARTS):
                keep()
                written = time.monotonic()
            first, last = (first if held else number), number
            held.append(probabilities.numpy())
            done += len(probabilities)
            on_progress(done, total)
    finally:
        keep()


def answer_all(
    work: Work, folder: Path, ranks: Ranks, *, on_progress: OnProgress, say: Callable[[str], None]
) -> Answers | None:
    """Compute what `folder` does not hold yet; on rank 0 the probabilities of all images, None on the others.

    Bit-identical for any number of ranks and interruptions on machines of one kind, since the batches are the same. Raises
    DataError when an image cannot be decoded and `work.bad` is None.
    """
    start = time.perf_counter()
    batches = work.batches
    parts = Parts(folder, batches)

    def begin() -> _Begun:
        return {"goes_on": parts.begin(work.identity), "missing": parts.missing()}

    begun: _Begun = ranks.on_rank_zero(begin)
    missing = begun["missing"]
    share = missing[ranks.rank * len(missing) // ranks.size : (ranks.rank + 1) * len(missing) // ranks.size]
    left = sum(len(batches[number]) for number in missing)
    if begun["goes_on"]:
        number = len(work.images)
        were = "was" if number == 1 else "were"
        say(f"resuming: {number - left:,} of {counted(number, 'image')} {were} answered before")
    answer(work, parts, share, on_progress)
    if ranks.rank != 0:
        return None
    while parts.missing():  # a rank that fails ends this one too, by the launcher
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return Answers(parts.collect(), parts, left, time.perf_counter() - start)
