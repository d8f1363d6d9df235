"""Images with the same bytes: in one class a waste, in two classes a contradiction, in both splits a leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.sources.exclusions import escaped, name_below

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])  # 128 bits of a hash; zeros where there is none

Digests = NDArray[np.void]


@dataclass(frozen=True)
class Copy:
    """One of several images with the same bytes."""

    split: str
    label: str
    """Name of its class."""
    name: str
    """As in a list of exclusions."""


@dataclass(frozen=True)
class Duplicates:
    """All groups of images with the same bytes, each at least two."""

    groups: tuple[tuple[Copy, ...], ...]

    def in_both_splits(self) -> list[tuple[Copy, ...]]:
        """Groups of which some are for training and some for validation."""
        return [group for group in self.groups if len({copy.split for copy in group}) > 1]

    def in_several_classes(self) -> list[tuple[Copy, ...]]:
        """Groups whose images have different labels."""
        return [group for group in self.groups if len({copy.label for copy in group}) > 1]

    def problems(self) -> list[str]:
        """What is wrong with them, in words; copies within one class of one split are not."""
        found = []
        leaks, contradictions = self.in_both_splits(), self.in_several_classes()
        if leaks:
            count = sum(copy.split == "val" for group in leaks for copy in group)
            found.append(
                f"LEAK: {count} of the validation images {'is a training image' if count == 1 else 'are training images'} too,"
                f" byte for byte, so that errors are measured too low; for example {_example(leaks)}"
            )
        if contradictions:
            found.append(
                f"pictures that lie in several classes, byte for byte: {len(contradictions)}; for example {_example(contradictions)}"
            )
        return found

    def superfluous(self) -> list[tuple[str, str]]:
        """(name, why) of what to leave out: training images, all of a leak or contradiction, else all but the first.

        Validation images stay: errors are compared with those of others on the same images.
        """
        out: list[tuple[str, str]] = []
        for group in self.groups:
            training = [copy for copy in group if copy.split == "train"]
            several = len({copy.label for copy in group}) > 1
            if several or len(training) < len(group):
                why = "lie in several classes" if several else "are validated on"
                out += [(copy.name, f"duplicate: the same bytes {why}") for copy in training]
            else:
                out += [(copy.name, f"duplicate: the same bytes as {training[0].name}") for copy in training[1:]]
        return out


def _example(groups: Sequence[tuple[Copy, ...]]) -> str:
    return " and ".join(copy.name for copy in groups[0][:3])


def find_duplicates(splits: Sequence[tuple[ImageSet, Digests]]) -> Duplicates:
    """Groups in the order of their first images; an image with a digest of zeros is none of them."""
    digests = np.concatenate([part for _, part in splits])
    starts = np.cumsum([0, *(len(images) for images, _ in splits)])
    order = np.lexsort((digests["low"], digests["high"]))
    placed = digests[order]
    same = (placed[1:] == placed[:-1]) & ((placed["high"] | placed["low"])[1:] != 0)
    # A group is a run of neighbours that are the same.
    edges = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0))
    runs = (np.sort(order[first : last + 1]).tolist() for first, last in edges.reshape(-1, 2))

    def copy(place: int) -> Copy:
        which = int(np.searchsorted(starts, place, side="right")) - 1
        images, i = splits[which][0], place - int(starts[which])
        return Copy(images.split, images.classes[int(images.labels[i])], escaped(name_below(images, i)))

    return Duplicates(tuple(tuple(map(copy, run)) for run in sorted(runs)))
