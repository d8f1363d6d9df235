"""Figures of each class by itself, one against the rest, and decision thresholds of two classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inceptionctl.evaluate.results import ClassFigures, Classwise, EqualError, MacroAverage, MaxF1, Thresholds
from inceptionctl.words import percent

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def classwise(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> Classwise:
    """All that this module says of float32 [N, classes] and int64 [N]."""
    each = per_class(probabilities, labels, classes)
    return {
        "per_class": each,
        "macro_average": macro_average(each),
        "thresholds": thresholds(probabilities, labels, classes),
    }


def per_class(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> dict[str, ClassFigures]:
    """Of float32 [N, classes] and int64 [N]: precision, recall and F1 of the likeliest class, and one-vs-rest ROC AUC, in [0, 1].

    As scikit-learn with zero_division=0: a class that is never predicted has precision and F1 of 0. All are None of a class without
    images, and the ROC AUC is where there are no others.
    """
    predicted = probabilities.argmax(1)
    return {name: _figures(probabilities[:, k], labels == k, predicted == k) for k, name in enumerate(classes)}


def _figures(scores: Floats, own: NDArray[np.bool_], taken: NDArray[np.bool_]) -> ClassFigures:
    total, right, guesses = int(own.sum()), int((own & taken).sum()), int(taken.sum())
    if not total:
        return {"num_images": 0, "top1_error": None, "precision": None, "recall": None, "f1": None, "roc_auc": None}
    return {
        "num_images": total,
        "top1_error": percent(total - right, total),
        "precision": right / guesses if guesses else 0.0,
        "recall": right / total,
        "f1": 2 * right / (total + guesses),
        "roc_auc": roc_auc(scores, own),
    }


def roc_auc(scores: Floats, own: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of float32 [N]: the share of pairs (own image, other image) in which the own has the higher score.

    A tie counts half, which is the trapezoid that scikit-learn draws. None without own images, or without others.
    """
    positives, negatives = scores[own], np.sort(scores[~own])
    if not (len(positives) and len(negatives)):
        return None
    twice = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return int(twice.sum()) / (2 * len(positives) * len(negatives))


def macro_average(figures: dict[str, ClassFigures]) -> MacroAverage:
    """Unweighted means over the classes that have images. Macro recall is the balanced accuracy."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    each = figures.values()
    return {
        "precision": mean([one["precision"] for one in each]),
        "recall": mean([one["recall"] for one in each]),
        "f1": mean([one["f1"] for one in each]),
        "roc_auc": mean([one["roc_auc"] for one in each]),
    }


def thresholds(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> Thresholds | None:
    """Decision thresholds on the second class's probability, float32 [N, 2]: an image at or above one is of the second class.

    Candidates are the probabilities of the images themselves; the lowest of equals is taken. None for another number of classes, or where
    one of the two has no images.
    """
    own = labels == 1
    if len(classes) != 2 or own.all() or not own.any():
        return None
    values, inverse = np.unique(probabilities[:, 1], return_inverse=True)
    # How many images of each class are at or above each value.
    hits, false_alarms = (np.bincount(inverse[side], minlength=len(values))[::-1].cumsum()[::-1] for side in (own, ~own))
    total = int(own.sum())
    f1 = 2 * hits / (total + hits + false_alarms)
    missed, alarmed = 1 - hits / total, false_alarms / (len(own) - total)
    best, equal = int(np.argmax(f1)), int(np.argmin(np.abs(missed - alarmed)))
    max_f1: MaxF1 = {
        "threshold": float(values[best]),
        "f1": float(f1[best]),
        "precision": int(hits[best]) / int(hits[best] + false_alarms[best]),
        "recall": int(hits[best]) / total,
    }
    equal_error: EqualError = {
        "threshold": float(values[equal]),
        "false_positive_rate": float(alarmed[equal]),
        "false_negative_rate": float(missed[equal]),
    }
    return {"positive_class": classes[1], "max_f1": max_f1, "equal_error": equal_error}
