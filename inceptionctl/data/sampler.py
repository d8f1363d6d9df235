"""Which sample comes when, and the random numbers of each place: pure functions of (seed, place), whatever the number of ranks.

Places count from 0 without end: epoch 0's images in its order, then epoch 1's, and so on.

Everything is drawn from numpy's Philox4x64-10 (Salmon et al., 'Parallel random numbers: as easy as 1, 2, 3', SC 2011) through
`random_raw`. That stream is fixed by the algorithm and by numpy's policy for bit generators (NEP 19), whereas the methods of
`Generator`, such as `permutation`, may change from one numpy to the next, and a run resumed after an upgrade must go on in the
same order.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inceptionctl.storage import temporary_file

_MASK_64 = (1 << 64) - 1
_WORDS_A_BLOCK = 4  # one step of Philox's counter gives four 64-bit words
_BLOCKS_A_PLACE = 128
MAX_UNIFORMS = _BLOCKS_A_PLACE * _WORDS_A_BLOCK
_PLACE_BITS = 21  # up to two million draws are sorted at once, one million on average; 16 MB
_DRAWS_AT_ONCE = 1 << 18
# Permutations use the key (seed, epoch); no epoch gets here, so the three streams never meet.
_UNIFORMS_STREAM = _MASK_64
_CLASSES_STREAM = 1 << 63

Sampling = Literal["natural", "balanced", "sqrt"]

WORTH_SHARING = 4_000_000  # samples; the order of fewer takes less than a second and 16 MB
_SECONDS_TO_KEEP = 7 * 24 * 3600.0


def permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int32]:
    """The order of one epoch, int32 [num_samples]: the ranks of 64-bit draws of Philox keyed by (seed, epoch).

    Worked out a range of draws at a time, so that it takes little memory beside the result: every rank of a node has its own.
    """
    order = np.empty(num_samples, dtype=np.int32)
    bits = max(0, (num_samples - 1).bit_length() - _PLACE_BITS + 1)
    filled = 0
    for high in range(1 << bits):
        draws, index = _draws_that_begin_with(high, bits, _key(seed, epoch), num_samples)
        order[filled : filled + len(index)] = index[_ranks(draws)]
        filled += len(index)
    return order


def _draws_that_begin_with(
    high: int, bits: int, key: NDArray[np.uint64], num_samples: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Of `num_samples` draws those whose first `bits` bits are `high`, less these bits, and the places that they stand at."""
    generator = np.random.Philox(key=key)
    draws, index = [], []
    for start in range(0, num_samples, _DRAWS_AT_ONCE):
        drawn = generator.random_raw(min(_DRAWS_AT_ONCE, num_samples - start))
        here = np.flatnonzero(drawn >> np.uint64(64 - bits) == np.uint64(high)) if bits else np.arange(len(drawn))
        draws.append(drawn[here] << np.uint64(bits))
        index.append((here + start).astype(np.int32))
    return np.concatenate(draws), np.concatenate(index)


def _ranks(draws: NDArray[np.uint64]) -> NDArray[np.int64]:
    """As np.argsort(draws, kind="stable"), but several times as fast: whole words are sorted, each with its place at the end."""
    places = np.uint64((1 << _PLACE_BITS) - 1)
    words = (draws & ~places) | np.arange(len(draws), dtype=np.uint64)
    words.sort()
    beginnings = words & ~places
    if len(draws) > 1 << _PLACE_BITS or (beginnings[1:] == beginnings[:-1]).any():
        return np.argsort(draws, kind="stable").astype(np.int64, copy=False)
    return (words & places).astype(np.int64)


def uniforms(seed: int, start: int, count: int, num: int, stream: int = 0) -> NDArray[np.float32]:
    """`num` numbers in [0, 1) with 24 bits for each of the places start .. start + count - 1: float32 [count, num].

    Each place owns the same number of steps of the counter. So the numbers of a place do not depend on the range that was asked
    for, nor do its first numbers depend on `num`. Each `stream` (below 2^33) has numbers of its own.

    Raises ValueError when `num` is above MAX_UNIFORMS.
    """
    if num > MAX_UNIFORMS:
        raise ValueError(f"{num} numbers a place were asked for, {MAX_UNIFORMS} is the most")
    generator = np.random.Philox(key=_key(seed, _UNIFORMS_STREAM - stream), counter=start * _BLOCKS_A_PLACE)
    words = generator.random_raw(count * MAX_UNIFORMS).reshape(count, MAX_UNIFORMS)
    # 24 bits fill a float32 exactly: nothing is rounded up to 1.
    return (words[:, :num] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def class_shares(labels: NDArray[np.int32], sampling: Sampling) -> NDArray[np.float64]:
    """The probability of each class at a place, float64 [classes]: its share of the images (`natural`), equal (`balanced`) or proportional to
    the square root of its images (`sqrt`). Classes without images have none."""
    counts = np.bincount(labels).astype(np.float64)
    weights = {"natural": counts, "balanced": (counts > 0).astype(np.float64), "sqrt": np.sqrt(counts)}[sampling]
    shares: NDArray[np.float64] = weights / weights.cumsum()[-1]
    return shares


def drawn_by_class(seed: int, epoch: int, labels: NDArray[np.int32], sampling: Sampling) -> NDArray[np.int32]:
    """The samples at the places of one epoch, int32 [num_samples], when each place draws a class first and an image of it then.

    The images of a class come in the order in which they stand in the epoch's permutation, over and over: within an epoch none comes twice
    as long as another of its class has not come yet.
    """
    num = len(labels)
    # cumsum adds one after another on every machine, unlike sum.
    edges = class_shares(labels, sampling).cumsum()
    words = np.random.Philox(key=_key(seed, _CLASSES_STREAM + epoch)).random_raw(num)
    classes = np.searchsorted(edges, (words >> np.uint64(11)) * (2.0**-53 * edges[-1]), side="right")
    order = permutation(seed, epoch, num)
    of_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    by_class = np.argsort(classes, kind="stable")
    drawn = np.bincount(classes, minlength=len(counts))
    nth = np.arange(num) - np.repeat(drawn.cumsum() - drawn, drawn)
    classes = classes[by_class]
    index = np.empty(num, dtype=np.int32)
    index[by_class] = of_class[(counts.cumsum() - counts)[classes] + nth % counts[classes]]
    return index


def shared_permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int32]:
    """As `permutation`, worked out once on a machine: its ranks map one file, so that 14 million samples are there once, not eight times.

    The file lies in the directory for temporary files (TMPDIR), in a folder that only this user can read.

    Where there is no room for it, or no right, every rank works the order out for itself: that is the same order.
    """
    folder = Path(tempfile.gettempdir()) / f"inceptionctl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError("a folder of somebody else, who could change the order")
        return _mapped(folder, seed, epoch, num_samples)
    except OSError:
        return permutation(seed, epoch, num_samples)


def _mapped(folder: Path, seed: int, epoch: int, num_samples: int) -> NDArray[np.int32]:
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


def batch_at(step: int, skipped: Iterable[tuple[int, int]]) -> int:
    """Which batch of the stream (from 0) optimizer step `step` (from 0) takes: the step-th that lies in no range of `skipped`.

    Ranges are (first, last) batch, in any order; they may overlap.
    """
    batch, passed = step, 0
    for first, last in sorted(skipped):
        if batch < first:
            break
        batch += max(0, last + 1 - max(first, passed))
        passed = max(passed, last + 1)
    return batch


def _key(seed: int, stream: int) -> NDArray[np.uint64]:
    return np.array([seed & _MASK_64, stream & _MASK_64], dtype=np.uint64)


@dataclass(frozen=True)
class Repeats:
    """Repeated augmentation (Hoffer et al., arXiv 1901.09335): the images of a global batch stand in it `times` times, one row after another.

    Images take turns in the order that they have without. Where `times` does not divide the batch, the last row is cut short.
    """

    times: int
    global_batch_size: int

    @property
    def num_images(self) -> int:
        """Different images of a batch."""
        return -(-self.global_batch_size // self.times)

    def turns(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place that each place's image has without repeats: another one for the two of a pair, wherever a batch has two images."""
        batches, within = np.divmod(places, self.global_batch_size)
        turns: NDArray[np.int64] = batches * self.num_images + within % self.num_images
        return turns


class Sampler:
    """The endless stream of samples: `at` tells what stands at any range of places.

    Keeps the order of the last epoch that was asked for (4 bytes a sample), so ask in the order of places. Ranks of a machine
    share those of WORTH_SHARING samples and more, if they are permutations: `natural`, where each sample comes once an epoch.
    """

    def __init__(
        self,
        seed: int,
        num_samples: int,
        labels: NDArray[np.int32] | None = None,
        sampling: Sampling = "natural",
        repeats: Repeats | None = None,
    ) -> None:
        """`labels`, int32 [num_samples], are needed by the other ways of `sampling`."""
        if num_samples < 1:
            raise ValueError("an order needs at least one sample")
        if sampling != "natural" and (labels is None or len(labels) != num_samples):
            raise ValueError(f"sampling {sampling} needs a label for each sample")
        self.seed = seed
        self.num_samples = num_samples
        self._labels, self._sampling, self._repeats = labels, sampling, repeats
        self._kept: tuple[int, NDArray[np.int32]] | None = None

    def at(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places start .. start + count - 1: (epoch, index of the sample), int64 [count] each."""
        places = np.arange(start, start + count, dtype=np.int64)
        # Of one order after another; an epoch is one of them unless images are repeated.
        orders, within = np.divmod(self._repeats.turns(places) if self._repeats else places, self.num_samples)
        index = np.empty(count, dtype=np.int64)
        for order in np.unique(orders):
            here = orders == order
            index[here] = self._order(int(order))[within[here]]
        return places // self.num_samples, index

    def _order(self, epoch: int) -> NDArray[np.int32]:
        if self._kept is None or self._kept[0] != epoch:
            self._kept = None  # freed before the next one is made
            self._kept = (epoch, self._made(epoch))
        return self._kept[1]

    def _made(self, epoch: int) -> NDArray[np.int32]:
        if self._sampling != "natural" and self._labels is not None:
            return drawn_by_class(self.seed, epoch, self._labels, self._sampling)
        make = shared_permutation if self.num_samples >= WORTH_SHARING else permutation
        return make(self.seed, epoch, self.num_samples)


@dataclass(frozen=True, kw_only=True)
class BatchSampler:
    """The places of the micro batches of one rank from `start_step` up to `num_steps` (exclusive).

    Step s takes the places [s * B, (s + 1) * B) of the endless stream, with B the global batch; where batches are `skipped`, those of
    batch `batch_at(s, skipped)`. Rank r of R takes the r-th of R equal slices of them, cut into micro batches in order. Raises ValueError
    when the batch does not split.
    """

    seed: int
    global_batch_size: int
    micro_batch_size: int
    rank: int = 0
    world_size: int = 1
    start_step: int = 0
    num_steps: int
    skipped: Sequence[tuple[int, int]] = ()
    sampling: Sampling = "natural"
    """What stands at the places (`Sampler`)."""
    repeats: int = 1
    """How often an image stands in a batch."""

    def __post_init__(self) -> None:
        share, rest = divmod(self.global_batch_size, self.world_size)
        if rest or share % self.micro_batch_size:
            raise ValueError(
                f"a batch of {self.global_batch_size} does not split into {self.world_size} ranks of micro batches of"
                f" {self.micro_batch_size}"
            )

    def sampler(self, num_samples: int, labels: NDArray[np.int32]) -> Sampler:
        """What stands at the places, of images with these labels."""
        repeats = Repeats(self.repeats, self.global_batch_size) if self.repeats > 1 else None
        return Sampler(self.seed, num_samples, labels, self.sampling, repeats)

    def __iter__(self) -> Iterator[int]:
        """The first place of each micro batch."""
        share = self.global_batch_size // self.world_size
        for step in range(self.start_step, self.num_steps):
            start = batch_at(step, self.skipped) * self.global_batch_size + self.rank * share
            yield from range(start, start + share, self.micro_batch_size)
