"""The policies: what is drawn how often, at which strength, and that an image does not depend on the ranks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inceptionctl.augmentations import auto_augment
from inceptionctl.augmentations.auto_augment import AutoAugment
from inceptionctl.augmentations.operations import NAMES
from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import uniforms
from tests.data.test_train_loader import EVERYTHING, stream

N = 20_000
DRAWN = uniforms(1, 0, N, AutoAugment.NUM_UNIFORMS)
Drawn = list[tuple[str, float]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """(operation, value) of each image, one list a layer; filled by `parameters`."""
    layers: list[Drawn] = []
    real = auto_augment.numbered

    def noted(operations: NDArray[np.int64], values: NDArray[np.float64], px: int) -> object:
        layers.append([(NAMES[o], float(v)) for o, v in zip(operations, values, strict=True)])
        return real(operations, values, px)

    monkeypatch.setattr(auto_augment, "numbered", noted)
    return layers


def of(layer: Drawn, name: str) -> NDArray[np.float64]:
    return np.array([value for drawn, value in layer if drawn == name])


def test_rand_augment_draws_every_operation_equally_often_at_its_magnitude(seen: list[Drawn]) -> None:
    AutoAugment(policy="rand", num_ops=3, magnitude=15).parameters(DRAWN, 100)
    assert len(seen) == 3
    for layer in seen:
        counts = Counter(name for name, _ in layer)
        assert set(counts) == set(NAMES) - {"invert"}
        assert max(abs(count / N - 1 / 14) for count in counts.values()) < 0.01
    assert sorted(set(of(seen[0], "rotate"))) == pytest.approx([-15, 15])
    assert abs(np.sign(of(seen[0], "rotate")).mean()) < 0.1
    assert sorted(set(of(seen[0], "color"))) == pytest.approx([0.55, 1.45])
    assert sorted(set(of(seen[0], "translate_y"))) == pytest.approx([-75 / 331, 75 / 331])
    assert set(of(seen[0], "posterize")) == {6.0} and set(of(seen[0], "solarize")) == {128.0}


def test_a_standard_deviation_spreads_the_magnitude_within_its_scale(seen: list[Drawn]) -> None:
    AutoAugment(policy="rand", magnitude=15, magnitude_std=6.0).parameters(DRAWN, 100)
    magnitudes = np.abs(of(seen[0], "shear_x")) / 0.3 * 30
    assert magnitudes.mean() == pytest.approx(15, abs=0.6) and magnitudes.std() == pytest.approx(6, abs=0.4)
    assert magnitudes.min() >= 0 and magnitudes.max() <= 30


def test_trivial_augment_draws_one_operation_at_any_strength(seen: list[Drawn]) -> None:
    AutoAugment(policy="trivial", num_ops=4).parameters(DRAWN, 100)
    (layer,) = seen
    assert len(set(np.round(np.abs(of(layer, "rotate")), 6))) == 31
    assert np.abs(of(layer, "rotate")).max() == pytest.approx(135)
    assert np.abs(of(layer, "translate_x")).max() == pytest.approx(32 / 224)
    assert set(of(layer, "posterize")) == {2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}


def test_imagenets_policy_applies_pairs_with_their_probabilities(seen: list[Drawn]) -> None:
    AutoAugment(policy="imagenet").parameters(DRAWN, 100)
    first, second = seen
    # The only pair that sharpens: 0.4 of a 25th, at magnitude 7 of 9; `invert` follows in 0.6 of them.
    sharpened = of(first, "sharpness")
    assert len(sharpened) / N == pytest.approx(0.4 / 25, abs=0.004)
    assert sorted(set(sharpened)) == pytest.approx([0.3, 1.7])
    followed = Counter(after for (name, _), (after, _) in zip(first, second, strict=True) if name == "sharpness")
    assert set(followed) == {"invert", "identity"} and followed["invert"] / len(sharpened) == pytest.approx(0.6, abs=0.1)


def test_none_is_off() -> None:
    assert not AutoAugment().is_on and AutoAugment(policy="rand").is_on


@pytest.mark.parametrize("policy", ["rand", "trivial", "imagenet"])
def test_the_same_on_any_number_of_ranks(root: Path, policy: Literal["rand", "trivial", "imagenet"]) -> None:
    train, changes = open_split(root, "train"), replace(EVERYTHING, augmentations=[AutoAugment(policy=policy)])
    whole, _ = stream(train, augmentation=changes)
    shared, _ = stream(train, 4, augmentation=changes, micro_batch_size=3, num_threads=1)
    assert torch.equal(whole, shared)
    plain, _ = stream(train, augmentation=EVERYTHING)
    changed = (whole - plain).abs().amax(dim=(1, 2, 3)) > 0.05
    assert 0.5 < changed.float().mean() < 1.0


def test_words_name_what_changes(seen: list[Drawn]) -> None:
    augmentation = AutoAugment(policy="rand", magnitude=15)
    words = augmentation.words(DRAWN)
    augmentation.parameters(DRAWN, 100)
    for i in range(200):
        drawn = [layer[i] for layer in seen if layer[i][0] != "identity"]
        assert [word.split()[0] for word in words[i].split(", ") if word] == [name for name, _ in drawn]
    assert any("rotate -15" in word for word in words)
