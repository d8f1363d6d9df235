"""Which sample comes when, and the random numbers of each place: pure functions of (seed, place), whatever the number of ranks.

Places count from 0 without end: epoch 0's images in its order, then epoch 1's, and so on.

Everything is drawn from numpy's Philox4x64-10 (Salmon et al., 'Parallel random numbers: as easy as 1, 2, 3', SC 2011) through
`random_raw`. That stream is fixed by the algorithm and by numpy's policy for bit generators (NEP 19), whereas the methods of
`Generator`, such as `permutation`, may change from one numpy to the next, and a run resumed after an upgrade must go on in the
same order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK_64 = (1 << 64) - 1
_WORDS_A_BLOCK = 4  # one step of Philox's counter gives four 64-bit words
_BLOCKS_A_PLACE = 128
MOST_UNIFORMS = _BLOCKS_A_PLACE * _WORDS_A_BLOCK
# Permutations use the key (seed, epoch); no epoch gets here, so the two streams never meet.
_UNIFORMS_STREAM = _MASK_64


def permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order of one epoch, int64 [num_samples]: the ranks of 64-bit draws of Philox keyed by (seed, epoch).

    Costs 0.1 s and 20 MB for the 1.28 million images of ImageNet.
    """
    draws = np.random.Philox(key=_key(seed, epoch)).random_raw(num_samples)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)


def uniforms(seed: int, start: int, count: int, num: int) -> NDArray[np.float32]:
    """`num` numbers in [0, 1) with 24 bits for each of the places start .. start + count - 1: float32 [count, num].

    Each place owns the same number of steps of the counter. So the numbers of a place do not depend on the range that was asked
    for, nor do its first numbers depend on `num`. Raises ValueError when `num` is above MOST_UNIFORMS.
    """
    if num > MOST_UNIFORMS:
        raise ValueError(f"{num} numbers a place were asked for, {MOST_UNIFORMS} is the most")
    generator = np.random.Philox(key=_key(seed, _UNIFORMS_STREAM), counter=start * _BLOCKS_A_PLACE)
    words = generator.random_raw(count * MOST_UNIFORMS).reshape(count, MOST_UNIFORMS)
    # 24 bits fill a float32 exactly: nothing is rounded up to 1.
    return (words[:, :num] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _key(seed: int, stream: int) -> NDArray[np.uint64]:
    return np.array([seed & _MASK_64, stream & _MASK_64], dtype=np.uint64)


class SampleOrder:
    """The endless stream of samples: `at` tells what stands at any range of places.

    Keeps the permutations of at most two epochs (20 MB for ImageNet), which is what a batch over the end of an epoch needs.
    """

    def __init__(self, seed: int, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError("an order needs at least one sample")
        self.seed = seed
        self.num_samples = num_samples
        self._kept: dict[int, NDArray[np.int64]] = {}

    def at(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places start .. start + count - 1: (epoch, index of the sample), int64 [count] each."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, within = np.divmod(places, self.num_samples)
        index = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._permutation(int(epoch))[within[here]]
        return epochs, index

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._kept:
            if len(self._kept) == 2:
                del self._kept[next(iter(self._kept))]
            self._kept[epoch] = permutation(self.seed, epoch, self.num_samples)
        return self._kept[epoch]
