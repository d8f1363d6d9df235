"""`bench lists`: what it takes to open a list of many images in several processes of one machine, as ranks do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from inceptionctl.bench.figures import Figure
from inceptionctl.data.dataset import open_split
from inceptionctl.data.imageset import ImageSet, Names, smallest
from inceptionctl.data.sampler import Sampler
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.folders import made_of
from inceptionctl.errors import EnvironmentFault

_UNITS = {"open": "s", "first order": "s", "a path": "us", "memory": "MB"}


def bench_lists(num_images: int, num_classes: int, num_ranks: int) -> list[Figure]:
    """Figures with a value a rank, and the memory of all of them.

    Class folders are real, the files in them are not: the list is made up and kept where a real one would be. Memory is PSS, in
    which a page that several processes share counts once, above that of the process before, with every page of the list touched.
    Raises EnvironmentFault when a process ends early.
    """
    with tempfile.TemporaryDirectory(prefix="inceptionctl-lists-") as folder:
        root = Path(folder).resolve()
        _keep_made_up_list(root, num_images, num_classes)
        command = [sys.executable, "-P", "-m", __name__, str(root)]
        ranks = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(num_ranks)]
        try:
            for rank in ranks:
                _told(rank.stdout)  # all have touched everything before any counts its share
            found = [_asked(rank) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    figures = [Figure(name, unit, [each[name] for each in found]) for name, unit in _UNITS.items()]
    return [*figures, Figure("memory of all", "MB", [sum(each["memory"] for each in found)])]


def _keep_made_up_list(root: Path, num_images: int, num_classes: int) -> None:
    classes = tuple(f"n{label:08d}" for label in range(num_classes))
    folder = root / "train"
    for label in classes:
        (folder / label).mkdir(parents=True)
    labels = np.sort(np.arange(num_images, dtype=np.int32) % num_classes)
    name = np.frombuffer(b"n01440764_00000.JPEG", dtype=np.uint8)
    names = Names(np.tile(name, num_images), smallest(np.arange(1, num_images + 1) * len(name)))
    images = ImageSet(root, "train", folder, classes, labels, names)
    time.sleep(index_cache.SECONDS_TO_SETTLE + 0.1)
    fingerprint, newest = made_of(folder, classes, classes)
    index_cache.kept(root, "train", fingerprint, lambda: images, newest=newest)


def _told(stream: IO[bytes] | None) -> dict[str, float]:
    assert stream is not None
    line = stream.readline()
    if not line:
        raise EnvironmentFault(
            "a process that opened the list has ended early", "memory may have run out: fewer --ranks or --images"
        )
    told: dict[str, float] = json.loads(line)
    return told


def _asked(rank: subprocess.Popen[bytes]) -> dict[str, float]:
    assert rank.stdin is not None
    rank.stdin.write(b"\n")
    rank.stdin.flush()
    return _told(rank.stdout)


def _as_rank(root: Path) -> None:
    """Open the list, say so, and when asked tell what it took."""
    before, clock = _pss(), time.perf_counter()
    images = open_split(root, "train")
    took: dict[str, Any] = {"open": time.perf_counter() - clock}
    clock = time.perf_counter()
    order = Sampler(0, len(images))
    first = order.at(0, 64)[1].tolist()
    took["first order"] = time.perf_counter() - clock
    clock = time.perf_counter()
    paths = [images.path(i) for _ in range(100) for i in first]
    took["a path"] = 1e6 * (time.perf_counter() - clock) / len(paths)
    for array in (images.labels, images.names.block, images.names.ends):
        array.max()
    print("{}", flush=True)
    sys.stdin.readline()
    took["memory"] = _pss() - before
    print(json.dumps(took), flush=True)
    sys.stdin.readline()


def _pss() -> float:
    """Megabytes of this process; a page that n processes share counts as its n-th part."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return sum(int(kilobytes) for kilobytes in re.findall(r"^(?:Swap)?Pss: +(\d+) kB", text, re.M)) / 1000


if __name__ == "__main__":
    _as_rank(Path(sys.argv[1]))
