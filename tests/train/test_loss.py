import pytest
import torch
from torch.nn import functional

from inceptionctl.train.step import training_loss

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
