"""Progressive resizing: which batch has which size, and that it is the same images with the same draws, wherever one starts."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inceptionctl.data.dataset import open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import TrainLoader
from inceptionctl.data.mix import Mix
from inceptionctl.data.progressive import ProgressiveLoader, sizes_in_words, stages
from inceptionctl.data.sampler import BatchSampler
from tests.data.test_train_loader import EVERYTHING, loader

SIZES = {1: 56, 2: 40}
MIX = Mix(mixup_alpha=0.2, cutmix_alpha=1.0, probability=0.9, cutmix_probability=0.5, until_epoch=None)
CHANGES = replace(EVERYTHING, mix=MIX)
# 13 images: batches of 12 begin at places 0, 12, 24, 36 and 48, in epochs 0, 0, 1, 2 and 3.
BATCHES = BatchSampler(seed=5, global_batch_size=12, micro_batch_size=6, num_steps=5)
EXPECTED = [48, 48, 56, 40, 40]


def sizes(batches: BatchSampler, num_samples: int = 13) -> list[int]:
    parts = stages(batches, num_samples, SIZES, 48)
    assert parts[0][0].start_step == batches.start_step and parts[-1][0].num_steps == batches.num_steps
    assert all(one.num_steps == other.start_step for (one, _), (other, _) in itertools.pairwise(parts))
    return [px for part, px in parts for _ in range(part.start_step, part.num_steps)]


def made(root: Path, ranks: int = 1, micro: int = 6, **changes: int) -> list[list[Tensor]]:
    """Images of each step, rank after rank."""
    train, settings = open_split(root, "train"), LoaderSettings(num_threads=1, seconds_to_read=60.0)
    steps: dict[int, list[Tensor]] = {}
    for rank in range(ranks):
        batches = replace(BATCHES, micro_batch_size=micro, rank=rank, world_size=ranks, **changes)
        opened = ProgressiveLoader(
            stages(batches, len(train), SIZES, 48),
            lambda part, px: TrainLoader(train, part, replace(CHANGES, input_px=px), settings),
        )
        for place, batch in enumerate(opened):
            assert batch.mixed is not None
            steps.setdefault(place * micro * ranks // 12, []).append(batch.images)
        opened.close()
    return [[*torch.cat(images)] for images in steps.values()]


def test_a_batch_has_the_size_of_its_first_places_epoch_wherever_one_starts() -> None:
    assert sizes(BATCHES) == EXPECTED
    for start in range(5):
        assert sizes(replace(BATCHES, start_step=start)) == EXPECTED[start:]
    # Batch 2 is skipped: what was the last size of a place is still its size.
    assert sizes(replace(BATCHES, num_steps=4, skipped=[(2, 2)])) == [48, 48, 40, 40]
    # A boundary that a batch ends on.
    assert sizes(BATCHES, num_samples=12) == [48, 56, 40, 40, 40]


@pytest.mark.parametrize(("ranks", "micro", "start"), [(2, 6, 0), (3, 2, 1), (1, 12, 2), (2, 2, 3)])
def test_pixels_are_the_same_on_any_number_of_ranks_and_from_any_step(root: Path, ranks: int, micro: int, start: int) -> None:
    whole = made(root)
    assert [images[0].shape[-1] for images in whole] == EXPECTED
    part = made(root, ranks, micro, start_step=start)
    assert len(part) == 5 - start
    for ours, theirs in zip(part, whole[start:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_sample_order_and_draws_are_those_of_one_size(root: Path) -> None:
    train = open_split(root, "train")
    for px in (56, 40):
        of_one_size = [batch.images for batch in loader(train, augmentation=replace(CHANGES, input_px=px), num_steps=5)]
        for step, images in enumerate(made(root)):
            if EXPECTED[step] == px:
                assert torch.equal(torch.stack(images), of_one_size[step])


def test_a_schedule_in_words() -> None:
    assert sizes_in_words({30: 160, 0: 128}, 224) == "of 128 px, from epoch 30 on of 160 px; validation images of 224 px"
    assert sizes_in_words({30: 160}, 224) == "of 224 px, from epoch 30 on of 160 px; validation images of 224 px"
