"""Figures from class probabilities: errors with their intervals, loss, calibration, confusion, errors by ImageNet ReaL's labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.sources.class_lists import text_of
from inceptionctl.data.sources.exclusions import image_numbers
from inceptionctl.errors import DataError
from inceptionctl.evaluate.results import Metrics, RealErrors
from inceptionctl.words import has_top5, percent

NUM_RESAMPLES = 10_000
NUM_BINS = 15
SMALLEST = torch.finfo(torch.float32).tiny


def figures(probabilities: Tensor, labels: Tensor) -> Metrics:
    """Errors in percent, mean cross entropy, calibration, of float32 [N, classes] and int64 [N]; bit-identical for equal inputs.

    `interval`: the middle 95% of 10,000 bootstrap resamples of the images (fixed seed).
    `calibration_error`: the expected calibration error in percent (arXiv 1706.04599) over 15 equal bins of the likeliest class's
    probability, which are in `calibration`. Top-5 errors are None of five classes or fewer.
    """
    best = probabilities.topk(min(5, probabilities.shape[1]), dim=1)
    hits = best.indices == labels[:, None]
    top1, top5 = hits[:, 0], hits.any(1)
    own = probabilities.gather(1, labels[:, None])[:, 0].clamp_min(SMALLEST)
    bins, error = calibration(best.values[:, 0], top1)
    says = has_top5(probabilities.shape[1])
    return {
        "num_images": len(labels),
        "top1_error": percent(int((~top1).sum()), len(labels)),
        "top5_error": percent(int((~top5).sum()), len(labels)) if says else None,
        "top1_error_interval": bootstrap_interval(int(top1.sum()), len(labels)),
        "top5_error_interval": bootstrap_interval(int(top5.sum()), len(labels)) if says else None,
        "loss": -float(own.double().log().mean()),
        "calibration_error": error,
        "calibration": bins,
    }


def bootstrap_interval(num_correct: int, num_images: int) -> list[float]:
    """The middle 95% of the error in percent. A resample of right and wrong images is a draw of the binomial distribution.

    Where all images are right, or all wrong, every resample is the same: then the exact interval (Clopper and Pearson 1934).
    """
    if num_correct in (0, num_images):
        width = 100.0 * (1.0 - 0.025 ** (1.0 / num_images))
        return [0.0, width] if num_correct else [100.0 - width, 100.0]
    rng = np.random.default_rng(0)
    correct: NDArray[np.int64] = rng.binomial(num_images, num_correct / num_images, NUM_RESAMPLES)
    low, high = np.quantile(100.0 * (num_images - correct) / num_images, [0.025, 0.975])
    return [float(low), float(high)]


def calibration(confidence: Tensor, correct: Tensor) -> tuple[list[dict[str, float]], float]:
    """(bins that are not empty, expected calibration error in percent) of float [N] in [0, 1] and bool [N]."""
    place = (confidence.double() * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
    counts = torch.bincount(place, minlength=NUM_BINS).double()
    sums = torch.bincount(place, weights=confidence.double(), minlength=NUM_BINS)
    right = torch.bincount(place, weights=correct.double(), minlength=NUM_BINS)
    bins = [
        {"num_images": int(count), "confidence": float(total / count), "accuracy": float(hits / count)}
        for count, total, hits in zip(counts, sums, right, strict=True)
        if count
    ]
    return bins, 100.0 * float((sums - right).abs().sum() / counts.sum())


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [true class, predicted class]."""
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes).reshape(
        num_classes, num_classes
    )


def real_errors(images: ImageSet, predicted: Tensor, file: Path) -> RealErrors:
    """Top-1 error in percent by the labels of ImageNet ReaL (arXiv 2006.07159), any of an image's being right, and of how many images.

    `file` is its real.json: a list of labels for each image in the order of their numbers, empty lists being left out. `predicted` is
    int64 [N]. Raises DataError when it does not fit the images.
    """
    try:
        labels = json.loads(text_of(file, "--real-labels"))
        sets = [frozenset(map(int, one)) for one in labels]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} holds no lists of labels: {error}", "name real.json of ImageNet ReaL") from None
    numbers = image_numbers(images)
    if max(numbers) > len(sets):
        raise DataError(
            f"{file} has labels for {len(sets)} images, but there is a number {max(numbers)}", "name real.json whole"
        )
    highest = max((label for one in sets for label in one), default=-1)
    if highest >= len(images.classes):
        raise DataError(f"{file} names class {highest}, the data has {len(images.classes)}", "evaluate all 1,000 classes")
    hits = [guess in sets[number - 1] for number, guess in zip(numbers, predicted.tolist(), strict=True) if sets[number - 1]]
    if not hits:
        raise DataError(f"{file} has no labels for these images", "name real.json of ImageNet ReaL")
    return {"real_top1_error": percent(hits.count(False), len(hits)), "real_num_images": len(hits)}
