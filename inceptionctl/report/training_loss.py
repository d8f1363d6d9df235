"""What the training loss of a run is of, in words: it does not compare with the loss of an evaluation."""

from __future__ import annotations

import math

from inceptionctl.models import MODELS
from inceptionctl.recipe.schema import ModelSection
from inceptionctl.run_contents import RunContents


def smoothing_of(found: RunContents) -> float | None:
    """train.label_smoothing of a run; None where its recipe cannot be read."""
    return found.recipe.train.label_smoothing if found.recipe else None


def least_loss(label_smoothing: float, num_classes: int) -> float:
    """The least that the cross entropy of smoothed labels can be, the entropy of such a label in nats (train/step.py)."""
    rest = label_smoothing / num_classes
    shares = [1.0 - label_smoothing + rest, *[rest] * (num_classes - 1)]
    return -sum(share * math.log(share) for share in shares if share)


def training_loss_in_words(found: RunContents) -> str:
    """A sentence about the training loss of a run; empty where its recipe cannot be read."""
    if found.recipe is None:
        return ""
    smoothing, num_classes = found.recipe.train.label_smoothing, found.recipe.model.num_classes
    labels = (
        f"cross entropy with label smoothing {smoothing:g}, at least {least_loss(smoothing, num_classes):.2f}"
        if smoothing
        else "cross entropy, no label smoothing"
    )
    return labels + (", without the auxiliary head's loss" if _has_aux_head(found.recipe.model) else "")


def _has_aux_head(model: ModelSection) -> bool:
    own = MODELS[model.name].aux_head if model.name in MODELS else None
    return bool(own if model.aux_head is None else model.aux_head)
