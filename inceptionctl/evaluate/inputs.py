"""Images for inference: of a data set, or files from anywhere, through the same DALI graph as evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inceptionctl.data.imageset import ImageSet, Names
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, PictureLoader, in_batches
from inceptionctl.data.transforms import Preparation
from inceptionctl.distributed.session import Machine
from inceptionctl.recipe.data_section import DataSection


def folder_of(paths: Sequence[Path]) -> ImageSet:
    """Files from anywhere as a split of one class, in the order given; every label is 0 and meaningless."""
    files = [os.path.realpath(path) for path in paths]
    common = Path(os.path.commonpath([os.path.dirname(file) for file in files]))  # noqa: PTH120  (strings from realpath)
    names = Names.of(os.fsencode(os.path.relpath(file, common)) for file in files)
    labels = np.zeros(len(files), dtype=np.int32)
    return ImageSet(common, "val", common, (common.name or ".",), labels, names, class_folders=False)


def load_images(images: ImageSet, preparation: Preparation, *, batch_size: int, num_threads: int) -> Iterator[Tensor]:
    """Batches of the images in order: float32 [N, 3, input_px, input_px] on the CPU, with the preprocessing of an evaluation.

    Decoded on the CPU on every machine, so that one file gives the same numbers everywhere. Raises DataError naming the files
    that cannot be decoded.
    """
    batches = in_batches(range(len(images)), batch_size)
    loader = EvalLoader(images, batches, preparation, _on_the_cpu(num_threads))
    with closing(loader):
        for batch in loader:
            yield batch.images


def load_pictures(images: ImageSet, preparation: Preparation, *, batch_size: int, num_threads: int) -> Iterator[Tensor]:
    """The images in order, one at a time as decoded: uint8 [1, height, width, 3], RGB, on the CPU, turned upright if the preparation
    says so; `batch_size` images are decoded at once. Raises DataError naming the files that cannot be decoded.
    """
    batches = in_batches(range(len(images)), batch_size)
    loader = PictureLoader(images, batches, _on_the_cpu(num_threads), exif_orientation=preparation.exif_orientation)
    with closing(loader):
        for batch in loader:
            for picture in batch:
                yield picture[None]


def _on_the_cpu(num_threads: int) -> LoaderSettings:
    return LoaderSettings(num_threads=num_threads, seconds_to_read=DataSection().read_timeout_seconds)


def loading_of(machine: Machine, data: DataSection, device: torch.device) -> LoaderSettings:
    """How images are read and decoded for a network on `device`. A run trained on a GPU can be evaluated without one."""
    on_gpu = device.type == "cuda"
    return LoaderSettings(
        num_threads=data.num_threads or machine.num_threads,
        seconds_to_read=data.read_timeout_seconds,
        device_id=device.index if on_gpu else None,
        decode="mixed" if on_gpu and data.decode != "cpu" else "cpu",
    )
