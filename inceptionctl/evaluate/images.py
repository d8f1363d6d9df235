"""Images by their file names rather than by a data set, through the same graph as evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from torch import Tensor

from inceptionctl.data.dataset import ImageFolder
from inceptionctl.data.loaders import EvalLoader
from inceptionctl.data.preparation import Preparation


def folder_of(paths: Sequence[Path]) -> ImageFolder:
    """Files from anywhere as one split of one class, in the order given; every label is 0 and has no meaning."""
    files = [os.path.realpath(path) for path in paths]
    common = Path(os.path.commonpath([os.path.dirname(file) for file in files]))  # noqa: PTH120  (strings from realpath)
    names = [os.fsencode(os.path.relpath(file, common)) for file in files]
    offsets = np.cumsum([0, *map(len, names)], dtype=np.int64)
    labels = np.zeros(len(files), dtype=np.int32)
    # The common folder takes the place of the class folder; `.` where it is the root, which has no name.
    return ImageFolder(common, "val", common.parent, (common.name or ".",), labels, b"".join(names), offsets)


def load_images(paths: Sequence[Path], preparation: Preparation, *, batch_size: int, num_threads: int) -> Iterator[Tensor]:
    """Batches of the images in order: float32 [N, 3, input_px, input_px] on the CPU, prepared as for evaluation.

    Decoded on the CPU on every machine, so that one file gives the same numbers everywhere. Raises DataError naming the files
    that cannot be decoded.
    """
    if not paths:
        return
    loader = EvalLoader(
        folder_of(paths),
        **preparation.options(),
        batch_size=batch_size,
        rank=0,
        world_size=1,
        num_threads=num_threads,
        device_id=None,
        decode="cpu",
    )
    with closing(loader):
        for batch in loader:
            yield batch.images
