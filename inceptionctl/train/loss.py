"""The loss that is trained on."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

# What a network gives while it is trained: logits, and those of its auxiliary head where it has one.
Output = Tensor | tuple[Tensor, Tensor]


def training_loss(output: Output, labels: Tensor, *, label_smoothing: float, aux_loss_weight: float) -> tuple[Tensor, Tensor]:
    """(what the gradient is of, what is reported): mean cross entropies of a micro batch, in fp32.

    The first has the auxiliary head's loss added, weighted as TF-slim does (0.4); the second is the classifier's alone, which can
    be compared between networks with and without such a head. Both have the smoothed labels.
    """
    logits, aux_logits = output if isinstance(output, tuple) else (output, None)
    loss = functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    if aux_logits is None:
        return loss, loss
    aux_loss = functional.cross_entropy(aux_logits.float(), labels, label_smoothing=label_smoothing)
    return loss + aux_loss_weight * aux_loss, loss
