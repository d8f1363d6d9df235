"""Several networks as one: their class probabilities of the same images averaged, as in the paper's section 5."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.evaluation import without_tables, write_result
from inceptionctl.evaluate.metrics import figures
from inceptionctl.evaluate.records import Record, write_answers
from inceptionctl.evaluate.results import EnsembleResult, Images
from inceptionctl.words import counted, percent

# What must be the same in all members for their mean to be one evaluation, in words for messages.
SHARED = {"protocol": "protocols", "classes": "classes, or another order of them"}


def combine(
    records: Sequence[Record], names: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Tensor, EnsembleResult]:
    """(mean probabilities float32 [N, classes], result as JSON values) of members that answered the same images.

    `weights` are relative; equal by default. `members` are the figures of each, `differ` the share of images in percent of which two
    members name another class, and `agree` of which all name the same. Raises DataError for members of different images, classes or
    protocols, RecipeError for weights that do not fit. An image takes what it took the members together, where that is known of all.
    """
    probabilities, shares = mean_answer(records, names, weights)
    labels = records[0].labels
    if not len(labels):
        raise DataError(
            f"{names[0]} has no labels, so there are no errors to give", "--submission FILE writes what the ensemble answers"
        )
    seconds = [seconds_per_image(record) for record in records]
    each = [figures(record.probabilities, record.labels) for record in records]
    predicted = [record.probabilities.argmax(1) for record in records]
    images: Images = {}
    for key in ("data_root", "subset"):
        if key in records[0].about:
            images[key] = records[0].about[key]
    result: EnsembleResult = {
        "protocol": records[0].about["protocol"],
        **figures(probabilities, labels),
        "members": [
            {
                "name": name,
                "weight": share,
                "checkpoint": record.about.get("checkpoint"),
                "network": record.about.get("network"),
                "seconds_per_image": taken,
                "top1_error": own["top1_error"],
                "top5_error": own["top5_error"],
                "loss": own["loss"],
                "calibration_error": own["calibration_error"],
            }
            for name, share, taken, record, own in zip(names, shares, seconds, records, each, strict=True)
        ],
        "seconds_per_image": None if None in seconds else sum(taken for taken in seconds if taken),
        "differ": [
            {"members": [one, other], "percent": percent(int((predicted[one] != predicted[other]).sum()), len(labels))}
            for one, other in combinations(range(len(records)), 2)
        ],
        "agree": percent(int(torch.stack([other == predicted[0] for other in predicted[1:]]).all(0).sum()), len(labels)),
        "classes": records[0].about["classes"],
        **images,
    }
    return probabilities, result


def mean_answer(
    records: Sequence[Record], names: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Tensor, list[float]]:
    """(mean probabilities float32 [N, classes], the members' shares, which add up to 1); raises as `combine` does."""
    if len(records) < 2:
        raise RecipeError("an ensemble has at least two members", "name two or more evaluations or runs")
    _check_same(records, names)
    shares = _shares(weights, len(records))
    mean = sum(share * record.probabilities.double() for share, record in zip(shares, records, strict=True))
    assert isinstance(mean, Tensor)
    return mean.float(), shares


def seconds_per_image(record: Record) -> float | None:
    """What an image took when the record was made, decoding included."""
    rate = record.about.get("images_per_second")
    return 1.0 / rate if isinstance(rate, int | float) and rate > 0 else record.about.get("seconds_per_image")


def write_ensemble(path: Path, result: EnsembleResult, record: Record, probabilities: Tensor) -> None:
    """The result of `combine` as JSON, and beside it the mean probabilities of the images of `record`, as of one network.

    Raises EnvironmentFault when the disk refuses.
    """
    write_result(result, path)
    about = without_tables(result)
    write_answers(
        path.with_suffix(".parquet"), record.images, record.labels.numpy(), result["classes"], probabilities.numpy(), about
    )


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count:
        raise RecipeError(
            f"{counted(len(weights), 'weight')} for {count} members",
            "give --weights one number for each member, in their order",
        )
    if not all(0.0 <= weight < float("inf") for weight in weights) or sum(weights) == 0.0:
        raise RecipeError(
            f"--weights {', '.join(map(str, weights))}: not numbers of at least 0, one of them more", "for example 2,1,1"
        )
    return [weight / sum(weights) for weight in weights]


def _check_same(records: Sequence[Record], names: Sequence[str]) -> None:
    first = records[0]
    for record, name in zip(records[1:], names[1:], strict=True):
        for key, words in SHARED.items():
            if record.about.get(key) != first.about.get(key):
                told = f": {first.about.get(key)} and {record.about.get(key)}" if key == "protocol" else ""
                raise DataError(f"{names[0]} and {name} have different {words}{told}", "evaluate both alike first")
        if record.images != first.images:
            raise DataError(_different_images(first, record, names[0], name), "evaluate both on the same data set and subset")
        if not torch.equal(record.labels, first.labels):
            raise DataError(
                f"{names[0]} and {name} give the same images different labels", "evaluate both on the same data set"
            )


def _different_images(first: Record, other: Record, name: str, other_name: str) -> str:
    message = f"{name} and {other_name} are of different images: {len(first.images)} and {len(other.images)}"
    only = sorted(set(first.images) ^ set(other.images))
    return f"{message}; {only[0]} is in one alone" if only else f"{message}; their order differs"
