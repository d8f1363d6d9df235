"""Mixup and CutMix: what is drawn, what becomes of pixels and labels, and that pairs do not depend on the batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from inceptionctl.data.dataset import open_split
from inceptionctl.data.mix import Mix, drawn_pairs, mixed
from tests.data.test_train_loader import EVERYTHING, loader, stream

PX = 32
BOTH = Mix(mixup_alpha=0.2, cutmix_alpha=1.0, probability=0.9, cutmix_probability=0.5, until_epoch=None)
N = 20_000


def epochs(count: int) -> np.ndarray:
    return np.zeros(count, np.int64)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 4.0])
def test_weights_of_mixup_are_beta_distributed(alpha: float) -> None:
    mix = replace(BOTH, mixup_alpha=alpha, cutmix_alpha=0.0, probability=1.0)
    pairs = drawn_pairs(mix, 1, 0, epochs(2 * N), PX)
    assert not pairs.is_cut.any()
    # Kolmogorov and Smirnov's bound at 5%; nearer to 0 and 1, small alphas have more than float32 tells apart.
    at = np.linspace(0.001, 0.999, 999)
    below = (pairs.weights[:, None] < at).mean(axis=0)
    assert np.abs(below - stats.beta(alpha, alpha).cdf(at)).max() < 1.36 / np.sqrt(N)


def test_each_kind_has_its_probability_and_cutmix_its_areas() -> None:
    pairs = drawn_pairs(BOTH, 1, 0, epochs(2 * N), 224)
    blended = (pairs.weights < 1.0) & ~pairs.is_cut
    assert pairs.is_cut.mean() == pytest.approx(0.45, abs=0.01) and blended.mean() == pytest.approx(0.45, abs=0.01)
    height, width = (pairs.boxes[:, k + 2] - pairs.boxes[:, k] for k in (0, 1))
    assert pairs.weights[pairs.is_cut] == pytest.approx(1 - (height * width)[pairs.is_cut] / 224**2, abs=1e-6)
    assert (pairs.boxes >= 0).all() and (pairs.boxes <= 224).all()
    whole = (pairs.boxes > 0).all(axis=1) & (pairs.boxes < 224).all(axis=1) & pairs.is_cut
    assert np.abs(height - width)[whole].max() <= 1


def test_a_pair_is_the_same_in_any_batch_and_stops_with_its_epoch() -> None:
    whole = drawn_pairs(BOTH, 7, 0, epochs(64), PX)
    part = drawn_pairs(BOTH, 7, 40, epochs(12), PX)
    assert np.array_equal(whole.weights[20:26], part.weights) and np.array_equal(whole.boxes[20:26], part.boxes)
    stopped = drawn_pairs(replace(BOTH, until_epoch=1), 7, 0, np.repeat([0, 1], 32), PX)
    assert np.array_equal(stopped.weights[:16], whole.weights[:16]) and (stopped.weights[16:] == 1).all()
    assert not stopped.is_cut[16:].any()
    with pytest.raises(ValueError, match="break up a pair"):
        drawn_pairs(BOTH, 7, 1, epochs(4), PX)


def test_pixels_and_labels_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, PX, PX, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(64)
    pairs = drawn_pairs(BOTH, 3, 128, epochs(64), PX)
    assert pairs.is_cut.any() and ((pairs.weights < 1) & ~pairs.is_cut).any() and (pairs.weights == 1).any()
    before = images.numpy().copy()
    made, others, weights = mixed(images, labels, pairs)
    assert others.tolist() == [i ^ 1 for i in range(64)]
    assert np.array_equal(weights.numpy(), np.repeat(pairs.weights, 2))
    for i in range(64):
        own, other, pair = before[i], before[i ^ 1], i // 2
        expected = own.copy()
        if pairs.is_cut[pair]:
            top, left, bottom, right = pairs.boxes[pair]
            expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        else:
            expected = pairs.weights[pair] * own + (1 - pairs.weights[pair]) * other
        assert np.abs(made[i].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_loader_mixes_the_same_on_any_number_of_ranks_and_from_any_step(root: Path, ranks: int) -> None:
    train = open_split(root, "train")
    changes = replace(EVERYTHING, mix=BOTH)
    whole, labels = stream(train, augmentation=changes)
    plain, _ = stream(train, augmentation=EVERYTHING)
    assert ((whole - plain).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean() > 0.5
    shared, same = stream(train, ranks, augmentation=changes, micro_batch_size=2, num_threads=1)
    assert torch.equal(whole, shared) and torch.equal(labels, same)
    resumed, _ = stream(train, augmentation=changes, micro_batch_size=6, start_step=2)
    assert torch.equal(whole[24:], resumed)


def test_a_batch_tells_its_mixture(root: Path) -> None:
    loader_ = loader(open_split(root, "train"), augmentation=replace(EVERYTHING, mix=BOTH))
    batch = next(loader_)
    assert batch.mixed is not None
    others, weights = batch.mixed
    assert others.tolist() == batch.labels.view(-1, 2).flip(1).flatten().tolist()
    expected = drawn_pairs(BOTH, 5, 0, epochs(12), 40)
    assert np.array_equal(weights.numpy(), np.repeat(expected.weights, 2))
    assert next(loader(open_split(root, "train"))).mixed is None
