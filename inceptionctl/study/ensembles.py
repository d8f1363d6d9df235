"""Ensembles within a study: what averaging the networks' probabilities gains, and how much of their members' difference two ensembles keep.

The paper's last observation: from four Inception-v3 to one Inception-v4 and three Inception-ResNet-v2 the members gain more than the ensembles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from inceptionctl.evaluate.members import EnsembleMember, check_same_answered, check_same_images, mean_answer
from inceptionctl.evaluate.records import Record, read_record
from inceptionctl.recipe.study_recipe import Study
from inceptionctl.run import Run
from inceptionctl.study.cells import Cell
from inceptionctl.study.measures import ERRORS, RESAMPLES
from inceptionctl.words import has_top5, percent

CHECKPOINT = "latest"
"""The one at the end of a training: the best would be chosen by the images that it is then judged on."""
RESAMPLES_AT_ONCE = 500

Wrong = NDArray[np.int64]
"""[draws, 2, images]: by how many members an image is misclassified, and whether by their mean."""


class Estimate(TypedDict):
    """Percent or points, and the middle 95% of bootstrap resamples."""

    value: float
    interval: tuple[float, float]


class MemberError(TypedDict):
    """A network of a draw."""

    run: str
    arm: str
    seed: int
    top1_error: float
    top5_error: float | None
    """None of five classes or fewer."""


class Draw(TypedDict):
    """An ensemble of certain networks."""

    members: list[MemberError]
    top1_error: float
    top5_error: float | None


class Averaged(TypedDict):
    """Means over the draws."""

    members: Estimate
    """Error of a single network."""
    ensemble: Estimate
    """Error of the mean prediction."""
    gain: Estimate
    """What averaging takes off the error: members less ensemble."""


class EnsembleOfStudy(TypedDict):
    """An ensemble at a point of the grid."""

    name: str
    ensemble: str
    point: str
    networks: dict[str, int]
    """By arm."""
    draws: list[Draw]
    died: int
    """Draws left out since one of their networks diverged or died."""
    unfinished: int
    """Draws of which a network is not trained or evaluated yet."""
    errors: dict[str, Averaged]
    """top1_error, and top5_error with more than five classes; empty without draws."""


class EnsembleDifference(TypedDict):
    """Other less baseline, in points."""

    baseline: str
    other: str
    measure: str
    members: Estimate
    ensembles: Estimate
    ensembles_less_members: Estimate
    """What the baseline gains more by averaging than the other. Above 0 the ensembles gain less than their members, or lose more."""


class EnsemblesResult(TypedDict):
    """`ensembles` of study.json."""

    protocol: str
    checkpoint: str
    num_images: int | None
    """None as long as nothing is evaluated."""
    ensembles: list[EnsembleOfStudy]
    differences: list[EnsembleDifference]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a training that an ensemble needs."""

    cell: Cell
    record: Path | None
    """Its probabilities; None as long as it is not evaluated."""


def evaluations(study: Study, cells: Sequence[Cell]) -> list[Evaluation]:
    """One of each training that any ensemble needs. Raises CheckpointError for one whose checkpoints are damaged."""
    section = study.section
    needed = {
        network for name in section.ensembles for number in range(section.num_draws) for network in section.draw(name, number)
    }
    arms = {condition.name: condition.arm for condition in study.conditions}
    return [Evaluation(cell, _record(cell, study)) for cell in cells if (arms[cell.condition], cell.seed) in needed]


def _record(cell: Cell, study: Study) -> Path | None:
    if not cell.is_done or cell.contents.state != "finished":
        return None
    return EnsembleMember(cell.name, cell.recipe, cell.run).state(study.section.protocol, CHECKPOINT).record


def check_ensembles(study: Study) -> None:
    """Raise DataError where the networks of the ensembles would be validated on different images."""
    arms = {arm for counts in study.section.ensembles.values() for arm in counts}
    conditions = sorted((one for one in study.conditions if one.arm in arms), key=lambda one: one.point)
    recipes = study.first_recipes() if conditions else {}
    for _, at_point in groupby(conditions, key=lambda one: one.point):
        check_same_images([EnsembleMember(f"arms.{one.name}", recipes[one.name], Run(Path())) for one in at_point])


def ensembles_of(study: Study, found: Sequence[Evaluation]) -> EnsemblesResult | None:
    """What averaging gains, as far as the networks are evaluated; None for a study without ensembles.

    Raises DataError for evaluations of different images, as of images that were changed in the meantime.
    """
    if not study.section.ensembles:
        return None
    results: list[EnsembleOfStudy] = []
    differences: list[EnsembleDifference] = []
    num_images = None
    points = list(dict.fromkeys(one.point for one in study.conditions))
    for point in points:
        drawn = _drawn(study, point, found)
        results += [one.result for one in drawn.values()]
        differences += _compare(study, drawn)
        num_images = next((one.num_images for one in drawn.values() if one.num_images), num_images)
    return {
        "protocol": study.section.protocol,
        "checkpoint": CHECKPOINT,
        "num_images": num_images,
        "ensembles": results,
        "differences": differences,
    }


@dataclass(frozen=True)
class _Drawn:
    """An ensemble with what is needed for its intervals."""

    result: EnsembleOfStudy
    wrong: dict[str, Wrong]
    """By measure."""

    @property
    def num_images(self) -> int | None:
        return self.wrong["top1_error"].shape[-1] if self.wrong else None

    @property
    def size(self) -> int:
        return sum(self.result["networks"].values())


def _drawn(study: Study, point: str, found: Sequence[Evaluation]) -> dict[str, _Drawn]:
    """Every ensemble at a point of the grid, by name."""
    arms = {condition.name: condition.arm for condition in study.conditions if condition.point == point}
    at_hand = {(arms[one.cell.condition], one.cell.seed): one for one in found if one.cell.condition in arms}
    first: Record | None = None
    drawn = {}
    for name, networks in study.section.ensembles.items():
        draws, wrong, missing = [], [], []
        for number in range(study.section.num_draws):
            chosen = [at_hand[network] for network in study.section.draw(name, number)]
            if any(one.record is None for one in chosen):
                missing.append(any(one.cell.contents.state == "diverged" for one in chosen))
                continue
            records = [read_record(one.record) for one in chosen if one.record]
            first = first or _without_answers(records[0])
            check_same_answered([first, *records], ["the first network of the study", *(one.cell.name for one in chosen)])
            of_draw, draw = _average(records, [(one.cell, arms[one.cell.condition]) for one in chosen])
            draws.append(draw)
            wrong.append(of_draw)
        result: EnsembleOfStudy = {
            "name": f"{name},{point}" if point else name,
            "ensemble": name,
            "point": point,
            "networks": networks,
            "draws": draws,
            "died": sum(missing),
            "unfinished": len(missing) - sum(missing),
            "errors": {},
        }
        drawn[name] = _Drawn(result, {key: np.stack([one[key] for one in wrong]) for key in (wrong[0] if wrong else ())})
    return drawn


def _without_answers(record: Record) -> Record:
    return replace(record, probabilities=torch.empty(0))


def _average(records: Sequence[Record], networks: Sequence[tuple[Cell, str]]) -> tuple[dict[str, Wrong], Draw]:
    """(by measure int [2, images] as in `Wrong`, the errors) of one draw."""
    mean, _ = mean_answer(records, [cell.name for cell, _ in networks])
    ensemble = misclassified(mean, records[0].labels)
    singles = [misclassified(record.probabilities, record.labels) for record in records]
    wrong = {key: np.stack([np.sum([one[key] for one in singles], axis=0), ensemble[key]]) for key in ensemble}

    def errors(of: Mapping[str, NDArray[np.int64]]) -> dict[str, float | None]:
        return {key: percent(int(of[key].sum()), of[key].size) if key in of else None for key in ERRORS}

    members = [
        {"run": str(cell.run.path), "arm": arm, "seed": cell.seed, **errors(own)}
        for (cell, arm), own in zip(networks, singles, strict=True)
    ]
    return wrong, {"members": members, **errors(ensemble)}  # type: ignore[typeddict-item]


def misclassified(probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, NDArray[np.int64]]:
    """1 for each image whose label is not the likeliest class (top1_error), or not among the five likeliest (top5_error, with more than
    five classes), else 0; of float32 [N, classes] and int64 [N]."""
    num_classes = probabilities.shape[1]
    hits = probabilities.topk(min(5, num_classes), dim=1).indices == labels[:, None]
    found = {"top1_error": hits[:, 0]} | ({"top5_error": hits.any(1)} if has_top5(num_classes) else {})
    return {key: (~hit).long().numpy() for key, hit in found.items()}


def _compare(study: Study, drawn: Mapping[str, _Drawn]) -> Iterator[EnsembleDifference]:
    """Put errors with their intervals into each result, and yield the differences of the pairs."""
    made = {name: one for name, one in drawn.items() if one.wrong}
    for key in ERRORS if made else ():
        if not all(key in one.wrong for one in made.values()):
            continue
        errors, resamples = errors_of({name: (one.wrong[key], one.size) for name, one in made.items()})
        for name, one in made.items():
            values = [*errors[name], errors[name] @ GAIN]
            spread = [*resamples[name].T, resamples[name] @ GAIN]
            members, ensemble, gain = (estimate(value, over) for value, over in zip(values, spread, strict=True))
            one.result["errors"][key] = {"members": members, "ensemble": ensemble, "gain": gain}
        for baseline, other in study.section.pairs_of_ensembles:
            if baseline in made and other in made:
                value, over = errors[other] - errors[baseline], resamples[other] - resamples[baseline]
                yield {
                    "baseline": made[baseline].result["name"],
                    "other": made[other].result["name"],
                    "measure": key,
                    "members": estimate(value[0], over[:, 0]),
                    "ensembles": estimate(value[1], over[:, 1]),
                    "ensembles_less_members": estimate(value @ -GAIN, over @ -GAIN),
                }


GAIN = np.array([1.0, -1.0])

Errors = NDArray[np.float64]


def errors_of(ensembles: Mapping[str, tuple[Wrong, int]]) -> tuple[dict[str, Errors], dict[str, Errors]]:
    """(errors [2] in percent of members and ensemble, the same [RESAMPLES, 2] in bootstrap resamples) by the ensemble's name.

    `ensembles` gives each as (Wrong, number of networks). A resample takes images, the same for all, and draws, independently for each
    ensemble (where two share networks, that only widens the interval of their difference). Resampling both rows and columns so is
    conservative (Owen 2007, "The pigeonhole bootstrap"), apart from what few draws do to any bootstrap.
    """
    rows = np.concatenate([wrong.reshape(-1, wrong.shape[-1]) for wrong, _ in ensembles.values()])
    # Images on which everybody is right or wrong alike are one pattern, drawn by its count: the same distribution, and far fewer columns.
    patterns, counts = np.unique(rows, axis=1, return_counts=True)
    number = int(counts.sum())
    rng = np.random.default_rng(0)
    sums = np.concatenate(
        [
            rng.multinomial(number, counts / number, size=RESAMPLES_AT_ONCE) @ patterns.T
            for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
        ]
    )
    errors, resamples, start = {}, {}, 0
    for name, (wrong, size) in ensembles.items():
        draws = len(wrong)
        per_percent = number * np.array([size, 1]) / 100.0
        errors[name] = wrong.sum(axis=-1).mean(axis=0) / per_percent
        of_draws = sums[:, start : start + 2 * draws].reshape(RESAMPLES, draws, 2)
        chosen = rng.integers(draws, size=(RESAMPLES, draws, 1))
        resamples[name] = np.take_along_axis(of_draws, chosen, axis=1).mean(axis=1) / per_percent
        start += 2 * draws
    return errors, resamples


def estimate(value: float, resamples: Errors) -> Estimate:
    """A value and the middle 95% of its resamples [n]."""
    low, high = np.percentile(resamples, [2.5, 97.5])
    return {"value": float(value), "interval": (float(low), float(high))}
