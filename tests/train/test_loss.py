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
