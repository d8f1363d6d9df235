"""The order of an epoch, worked out once on a machine: its ranks map one file, so that 14 million samples are there once, not eight times."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.sampler import Sampler, permutation
from inceptionctl.storage import temporary_file

WORTH_SHARING = 4_000_000  # samples; the order of fewer takes less than a second and 16 MB
_SECONDS_TO_KEEP = 7 * 24 * 3600.0


def make_sampler(seed: int, num_samples: int) -> Sampler:
    """The sampler of a data set; the permutations of a large one are shared."""
    return Sampler(seed, num_samples, shared_permutation if num_samples >= WORTH_SHARING else permutation)


def shared_permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int32]:
    """As `sampler.permutation`. The file lies in the directory for temporary files (TMPDIR), in a folder that only this user can read.

    Where there is no room for it, or no right, every rank works the order out for itself: that is the same order.
    """
    folder = Path(tempfile.gettempdir()) / f"inceptionctl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError("a folder of somebody else, who could change the order")
        return _kept(folder, seed, epoch, num_samples)
    except OSError:
        return permutation(seed, epoch, num_samples)


def _kept(folder: Path, seed: int, epoch: int, num_samples: int) -> NDArray[np.int32]:
    stem = f"order-{seed & (1 << 64) - 1:016x}-{num_samples}-"
    file = folder / f"{stem}{epoch}.int32"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one rank works, the others wait for it
        if not file.exists() or file.stat().st_size != 4 * num_samples:
            _remove_old(folder, stem, epoch)
            with temporary_file(file) as temporary:
                permutation(seed, epoch, num_samples).tofile(temporary)
        return np.asarray(np.memmap(file, dtype=np.int32, mode="r"))


def _remove_old(folder: Path, stem: str, epoch: int) -> None:
    """Earlier epochs of the same order, and what was forgotten long ago. Whoever has one mapped keeps it."""
    forgotten = time.time() - _SECONDS_TO_KEEP
    for leftover in folder.glob(".order-*.tmp"):  # of a rank that was killed: whoever holds the lock is alone here
        leftover.unlink()
    for file in folder.glob("order-*.int32"):
        earlier = file.name.startswith(stem) and int(file.stem.rpartition("-")[2]) < epoch
        if earlier or file.stat().st_mtime < forgotten:
            file.unlink(missing_ok=True)
