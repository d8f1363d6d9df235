"""Probabilities kept while an evaluation goes on, so that an interrupted one goes on where it was, with any number of ranks."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.errors import DataError
from inceptionctl.storage import disk_errors, write_atomically

Floats = NDArray[np.float32]
PART = re.compile(r"part-(\d{8})-(\d{8})\.npy")


class Parts:
    """A folder with one file for several batches in succession, each float32 [images, classes], and what they are of."""

    def __init__(self, folder: Path, batches: list[range]) -> None:
        self.folder, self._batches = folder, batches

    def begin(self, identity: Mapping[str, object]) -> bool:
        """Make the folder, or go on in it; anew where it is of something else. Whether it held anything of use."""
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
        """Numbers of the batches that are in no file yet."""
        done = {number for first, last, _ in self._files() for number in range(first, last + 1)}
        return [number for number in range(len(self._batches)) if number not in done]

    def write(self, first: int, last: int, probabilities: Floats) -> None:
        """Keep the batches `first` to `last`. Raises EnvironmentFault when the disk refuses."""
        data = io.BytesIO()
        np.save(data, probabilities)
        write_atomically(self.folder / f"part-{first:08d}-{last:08d}.npy", data.getvalue())

    def collect(self) -> Floats:
        """All batches in order, [images, classes]. Raises DataError when files were taken away or changed meanwhile."""
        if self.missing():
            raise DataError(f"{self.folder} lacks parts that were written", "give the same command again")
        parts: dict[int, Floats] = {}
        for first, last, file in self._files():
            images = range(self._batches[first].start, self._batches[last].stop)
            parts[images.start] = _load(file, len(images))
        joined = np.concatenate([parts[start] for start in sorted(parts)])
        if len(joined) != self._batches[-1].stop:
            raise DataError(f"the parts in {self.folder} overlap", f"remove the folder {self.folder}")
        return joined

    def remove(self) -> None:
        """Everything, once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[tuple[int, int, Path]]:
        found = ((PART.fullmatch(file.name), file) for file in sorted(self.folder.glob("part-*.npy")))
        return [(int(match[1]), int(match[2]), file) for match, file in found if match]


def _load(file: Path, num_images: int) -> Floats:
    try:
        part: Floats = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}", f"remove it; the same command then makes it again: rm {file}") from None
    if part.ndim != 2 or len(part) != num_images:
        raise DataError(f"{file} holds {part.shape} numbers for {num_images} images", f"remove it: rm {file}")
    return part
