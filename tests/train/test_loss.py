import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from inceptionctl.data.imageset import ImageSet, Names
from inceptionctl.train.step import class_weights_of, training_loss

LABELS = torch.tensor([0, 2])


def test_the_auxiliary_loss_is_added_with_its_weight_and_not_reported() -> None:
    torch.manual_seed(0)
    logits, aux = torch.randn(2, 3), torch.randn(2, 3)
    trained_on, reported = training_loss((logits, aux), LABELS, label_smoothing=0.1, aux_loss_weight=0.4)
    main, other = (functional.cross_entropy(x, LABELS, label_smoothing=0.1) for x in (logits, aux))
    assert trained_on.item() == pytest.approx((main + 0.4 * other).item())
    assert reported.item() == pytest.approx(main.item()) and main.item() != other.item()


def test_logits_alone() -> None:
    logits = torch.randn(2, 3, dtype=torch.bfloat16)
    trained_on, reported = training_loss(logits, LABELS, label_smoothing=0.0, aux_loss_weight=0.4)
    assert trained_on is reported and trained_on.dtype == torch.float32


def soft(labels: torch.Tensor, others: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Probabilities as written in the papers."""
    own, other = (functional.one_hot(one, 5).float() for one in (labels, others))
    return (weights[:, None] * own + (1 - weights[:, None]) * other) * (1 - smoothing) + smoothing / 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_soft_targets(smoothing: float) -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels, others, weights = torch.tensor([0, 4, 2, 1]), torch.tensor([4, 0, 1, 2]), torch.tensor([0.7, 0.7, 1.0, 1.0])
    options = {"label_smoothing": smoothing, "aux_loss_weight": 0.4}
    targets = soft(labels, others, weights, smoothing)
    loss, reported = training_loss(logits, labels, (others, weights), **options)
    assert loss == reported
    assert float(loss) == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-6)
    bce, _ = training_loss(logits, labels, (others, weights), kind="bce", **options)
    assert float(bce) == pytest.approx(float(functional.binary_cross_entropy_with_logits(logits, targets)), rel=1e-6)
    alone, _ = training_loss(logits, labels, kind="bce", **options)
    unmixed = soft(labels, labels, torch.ones(4), smoothing)
    assert float(alone) == pytest.approx(float(functional.binary_cross_entropy_with_logits(logits, unmixed)), rel=1e-6)


def test_one_as_the_weight_is_no_mixing() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2, 1])
    options = {"label_smoothing": 0.1, "aux_loss_weight": 0.4}
    mixed, _ = training_loss(logits, labels, (labels.flip(0), torch.ones(4)), **options)
    assert float(mixed) == pytest.approx(float(training_loss(logits, labels, **options)[0]), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torch_over_the_number_of_images(smoothing: float) -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 4, 2, 1]), torch.tensor([3.0, 1.0, 0.5, 1.0, 0.25])
    options = {"label_smoothing": smoothing, "aux_loss_weight": 0.4, "class_weights": weights}
    loss, reported = training_loss(logits, labels, **options)
    summed = functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
    assert float(loss) == float(reported) == pytest.approx(float(summed) / 4, rel=1e-6)
    halves = [training_loss(logits[part], labels[part], **options)[0] for part in (slice(0, 2), slice(2, 4))]
    assert float(loss) == pytest.approx(float(sum(halves)) / 2, rel=1e-6)
    bce, _ = training_loss(logits, labels, kind="bce", **options)
    targets = soft(labels, labels, torch.ones(4), smoothing)
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    assert float(bce) == pytest.approx(float((weights[labels] * each).mean()), rel=1e-6)
    assert float(training_loss(logits, labels, kind="bce", **{**options, "class_weights": torch.ones(5)})[0]) == pytest.approx(
        float(each.mean()), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_a_mixed_label_has_the_weights_of_both(kind: str) -> None:
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    labels, share = torch.tensor([0, 4]), torch.tensor([0.7, 0.7])
    options = {"kind": kind, "label_smoothing": 0.1, "aux_loss_weight": 0.4}
    options["class_weights"] = torch.tensor([3.0, 1.0, 0.5, 1.0, 0.25])
    mixed, _ = training_loss(logits, labels, (labels.flip(0), share), **options)
    own, other = (training_loss(logits, one, **options)[0] for one in (labels, labels.flip(0)))
    assert float(mixed) == pytest.approx(0.7 * float(own) + 0.3 * float(other), rel=1e-6)


def test_the_auxiliary_head_is_weighted_too() -> None:
    logits, aux = torch.zeros(2, 3), torch.ones(2, 3)
    weights = torch.tensor([2.0, 1.0, 4.0])
    trained_on, reported = training_loss((logits, aux), LABELS, label_smoothing=0.0, aux_loss_weight=0.5, class_weights=weights)
    assert reported.item() == pytest.approx(3 * math.log(3)) and trained_on.item() == pytest.approx(4.5 * math.log(3))


def test_balanced_weights_are_those_of_the_training_images() -> None:
    images = labelled([5, 2, 0, 1])
    found = class_weights_of("balanced", images)
    assert found is not None and found.tolist() == pytest.approx([8 / 15, 8 / 6, 0.0, 8 / 3])
    assert float(found[torch.from_numpy(images.labels).long()].mean()) == pytest.approx(1.0)
    assert class_weights_of([1.0, 2.0, 3.0, 4.0], images).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert class_weights_of(None, images) is None


def labelled(counts: list[int]) -> ImageSet:
    """Images without files: of each class so many."""
    labels = np.arange(len(counts), dtype=np.int32).repeat(counts)
    names = Names.of(b"%d.jpg" % k for k in range(len(labels)))
    return ImageSet(Path("x"), "train", Path("x/train"), tuple(f"c{k}" for k in range(len(counts))), labels, names)
