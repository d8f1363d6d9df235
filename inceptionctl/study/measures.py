"""What is measured of each training of a study, and the statistics over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np

from inceptionctl.run_contents import Row, RunContents, by_subset, finite

END = 0.1
"""Share of the training whose mean loss counts as the final one."""
RESAMPLES = 10_000
SEEDS_FOR_INTERVAL = 6
"""With fewer there is no 95% interval of a paired difference. The bootstrap's interval of three values is the lowest to the highest, which
encloses the median in 75% of cases; of five values in 94%, of six in 97%. So with five none reaches 95% without assuming a distribution."""


class Measured(TypedDict):
    """One training. None is what it has not got, or not reached."""

    run: str
    seed: int
    ended: str
    """How: finished, died (only zeros before the average pool), or diverged (loss, gradient or weights not finite)."""
    final_loss: float | None
    """Mean training loss of the last tenth of the steps."""
    mean_loss: float | None
    """Area under the training loss over the steps, divided by their number."""
    final_error: float | None
    """Top-1 error in percent at the last validation, of the EMA weights."""
    final_error_interval: list[float] | None
    """95% of it over the validation images; None too where the row of metrics has not got their number."""
    best_error: float | None
    """The lowest of all validations."""
    zero_share: float | None
    """Share of zeros before the average pool at the end."""
    died_at: int | None
    """Step at which it was ended because it had died or diverged."""
    steps_to: dict[str, int | None]
    """First validated step at or below each top-1 error, by the error."""


MEASURES: Mapping[str, str] = {
    "final_error": "final error %",
    "best_error": "best error %",
    "final_loss": "final loss",
    "mean_loss": "mean loss",
    "zero_share": "zeros",
}

ERRORS: Mapping[str, str] = {"top1_error": "top-1 %", "top5_error": "top-5 %"}
"""Of ensembles."""


class Summary(TypedDict):
    """A measure over the seeds that have it."""

    n: int
    median: float | None
    low: float | None
    high: float | None


class PairedDifference(TypedDict):
    """Other less baseline, seed by seed, of the seeds whose two trainings reached the end and have the measure."""

    baseline: str
    other: str
    measure: str
    n: int
    trained: int
    """Seeds whose two trainings have ended, also where one died or diverged: n of so many are left."""
    mean: float | None
    low: float | None
    """The lowest difference of a seed."""
    high: float | None
    interval: tuple[float, float] | None
    """95% of the mean, bootstrapped over the seeds; None with fewer than SEEDS_FOR_INTERVAL."""


def measure(found: RunContents, seed: int, errors: Sequence[float]) -> Measured:
    """All measures of a run."""
    rows = [(row, error) for row in validations(found) if (error := finite(row.get("top1_error"))) is not None]
    judged = [(row["step"], error) for row, error in rows]
    zeros = [zero for row in found.train_rows if (zero := finite(row.get("zero_share"))) is not None]
    return {
        "run": str(found.run.path),
        "seed": seed,
        "ended": _ended(found, zeros),
        "final_loss": final_loss(found.train_rows),
        "mean_loss": mean_loss(found.train_rows),
        "final_error": judged[-1][1] if judged else None,
        "final_error_interval": _interval(rows[-1][1], rows[-1][0].get("num_images")) if rows else None,
        "best_error": min((error for _, error in judged), default=None),
        "zero_share": zeros[-1] if zeros else None,
        "died_at": found.step if found.state == "diverged" else None,
        "steps_to": {f"{limit:g}": next((step for step, error in judged if error <= limit), None) for limit in errors},
    }


def _ended(found: RunContents, zeros: Sequence[float]) -> str:
    if found.state == "finished":
        return "finished"
    limit = found.recipe.health.max_zero_share if found.recipe else 1.0
    return "died" if zeros and zeros[-1] > limit else "diverged"


def _interval(error: float, images: object) -> list[float] | None:
    if not isinstance(images, int) or images < 1:
        return None
    from inceptionctl.evaluate.metrics import bootstrap_interval

    return bootstrap_interval(round(images * (1.0 - error / 100.0)), images)


def validations(found: RunContents) -> Sequence[Row]:
    """Those while training, on the images that its recipe names (evaluate.subset): all, or without ImageNet's blacklist."""
    return by_subset(found.evaluate_rows).get(found.validated_on, [])


def final_loss(rows: Sequence[Row]) -> float | None:
    """Mean training loss of the rows in the last tenth of the steps; None without any."""
    losses = _losses(rows)
    if not losses:
        return None
    last = losses[-1][0]
    return statistics.fmean(loss for step, loss in losses if step > last * (1.0 - END))


def mean_loss(rows: Sequence[Row]) -> float | None:
    """Mean training loss over the steps. A row holds the mean since the row before."""
    losses = _losses(rows)
    if not losses:
        return None
    area = sum(loss * (step - before) for (before, _), (step, loss) in pairwise([(0, 0.0), *losses]))
    return area / losses[-1][0]


def _losses(rows: Sequence[Row]) -> list[tuple[int, float]]:
    # A row of step 0, which only a damaged file has, is the mean over no steps.
    return [(row["step"], loss) for row in rows if row["step"] > 0 and (loss := finite(row.get("loss"))) is not None]


def summary(values: Sequence[float | None]) -> Summary:
    """Median, lowest and highest."""
    known = [value for value in values if value is not None]
    if not known:
        return {"n": 0, "median": None, "low": None, "high": None}
    return {"n": len(known), "median": statistics.median(known), "low": min(known), "high": max(known)}


def summary_of_steps(values: Sequence[int | None]) -> Summary:
    """The same of steps until something was reached; who never reached it took more than anybody, so the median may be unknown."""
    reached = [value for value in values if value is not None]
    middle = statistics.median([float("inf") if value is None else value for value in values]) if values else float("inf")
    ends = summary(reached)
    return {**ends, "median": middle if middle < float("inf") else None}


def paired(
    baseline: Mapping[int, float | None], other: Mapping[int, float | None], names: tuple[str, str], measured: str
) -> PairedDifference:
    """Differences of a measure between two conditions by seed, with a bootstrap interval of their mean.

    `baseline` and `other` have all seeds that have ended, None of one without the measure.
    """
    both = [(one, two) for seed, one in baseline.items() if one is not None and (two := other.get(seed)) is not None]
    differences = np.array([two - one for one, two in both])
    interval = None
    if len(differences) >= SEEDS_FOR_INTERVAL:
        # The same draws for everybody: the page of a study is the same whenever it is made.
        drawn = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
        low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
        interval = (float(low), float(high))
    return {
        "baseline": names[0],
        "other": names[1],
        "measure": measured,
        "n": len(differences),
        "trained": len(baseline.keys() & other.keys()),
        "mean": float(differences.mean()) if len(differences) else None,
        "low": float(differences.min()) if len(differences) else None,
        "high": float(differences.max()) if len(differences) else None,
        "interval": interval,
    }
