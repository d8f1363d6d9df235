"""Repeated augmentation: each image several times in a batch, with other draws, the same on any number of ranks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionctl.data.dataset import open_split
from inceptionctl.data.mix import Mix
from inceptionctl.data.sampler import BatchSampler, Repeats, Sampler
from inceptionctl.errors import RecipeError
from inceptionctl.recipe import load_recipe
from tests.commands import TINY, inceptionctl, rows, sets
from tests.data.test_train_loader import EVERYTHING, stream

LABELS = np.zeros(31, np.int32)
MIX = Mix(mixup_alpha=0.2, cutmix_alpha=1.0, probability=1.0, cutmix_probability=0.5, until_epoch=None)


def stood(batch: int, times: int, count: int, start: int = 0) -> list[int]:
    index: list[int] = (
        BatchSampler(seed=3, global_batch_size=batch, micro_batch_size=1, num_steps=1, repeats=times)
        .sampler(31, LABELS)
        .at(start, count)[1]
        .tolist()
    )
    return index


@pytest.mark.parametrize(("batch", "times"), [(12, 3), (12, 2), (8, 4), (6, 2)])
def test_each_image_of_a_batch_stands_in_it_so_often_in_the_usual_order(batch: int, times: int) -> None:
    images = batch // times
    usual = Sampler(3, 31).at(0, 200 * images)[1].tolist()
    index = stood(batch, times, 200 * batch)
    for step in range(200):
        rows_of_batch = np.reshape(index[step * batch : (step + 1) * batch], (times, images)).tolist()
        assert rows_of_batch == [usual[step * images : (step + 1) * images]] * times


def test_the_last_row_is_cut_short_where_the_batch_does_not_divide() -> None:
    index = stood(8, 3, 16)
    assert [index[:3], index[3:6], index[6:8]] == [index[:3], index[:3], index[:2]]
    assert index[:3] + index[8:11] == Sampler(3, 31).at(0, 6)[1].tolist()
    assert Repeats(3, 2048).num_images == 683


def test_every_image_comes_equally_often_and_an_epoch_has_as_many_places_as_before() -> None:
    counts = Counter(stood(12, 3, 31 * 12))  # 12 epochs are 4 times every image, 3 times each
    assert set(counts) == set(range(31)) and set(counts.values()) == {12}
    epochs = (
        BatchSampler(seed=3, global_batch_size=12, micro_batch_size=1, num_steps=1, repeats=3).sampler(31, LABELS).at(0, 62)
    )
    assert epochs[0].tolist() == [0] * 31 + [1] * 31


@pytest.mark.parametrize(("batch", "times"), [(12, 3), (12, 4), (6, 2), (10, 3), (6, 3)])
def test_partners_of_mixup_are_different_images(batch: int, times: int) -> None:
    turns = Repeats(times, batch).turns(np.arange(20 * batch))
    assert (turns[::2] != turns[1::2]).all()


def test_copies_differ_and_do_not_depend_on_ranks_micro_batches_or_the_start(root: Path) -> None:
    train = open_split(root, "train")
    for changes in (EVERYTHING, replace(EVERYTHING, mix=MIX)):
        whole, labels = stream(train, augmentation=changes, repeats=3)
        first, second, third = whole[:12].split(4)
        assert not torch.equal(first, second) and not torch.equal(second, third)
        assert labels[:4].tolist() == labels[4:8].tolist() == labels[8:12].tolist()
        for ranks, micro, start in ((2, 2, 0), (3, 4, 1), (1, 6, 2)):
            ours, same = stream(train, ranks, augmentation=changes, repeats=3, micro_batch_size=micro, start_step=start)
            assert torch.equal(whole[12 * start :], ours) and torch.equal(labels[12 * start :], same)


def test_a_run_with_repeats_resumes_bit_for_bit(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, f"data.root={root}", "model.num_classes=3", "data.augment.repeats=2", "train.epochs=2.5")
    settings += sets("data.augment.mix.mixup_alpha=0.2", "checkpoint.every_epochs=null", "evaluate.every_epochs=null")
    for name, stops in (("whole", (5,)), ("cut", (2, 5))):
        for stop in stops:
            words = ("train", "inception_v4", *settings, "--set", f"train.max_steps={stop}", "--output", name)
            done = inceptionctl(*words, "--cpu-ranks", "1", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "a step takes 4 different images, each 2 times; an epoch sees 1/2 of all" in done.stderr
    whole, cut = (tmp_path / name / "checkpoints/step-00000005/model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [row["loss"] for row in rows(tmp_path / "cut")]


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quickstart", ["data.augment.repeats=64"])
    (problem,) = caught.value.problems
    assert "leaves one image in a batch of train.global_batch_size 64" in problem.message and "32 or less" in str(problem.hint)
    with pytest.raises(RecipeError) as caught:
        load_recipe("quickstart", ["aug_repeats=3"])
    assert "data.augment.repeats" in str(caught.value.problems[0].hint)
