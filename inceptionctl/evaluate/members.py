"""The members of an ensemble: their progress, and the average of their class probabilities (section 5 of the paper)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from os.path import normpath
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.classwise import classwise
from inceptionctl.evaluate.evaluation import without_tables, write_result
from inceptionctl.evaluate.metrics import figures
from inceptionctl.evaluate.records import Record, names_below_root, write_answers
from inceptionctl.evaluate.results import AnsweredImages, EnsembleResult
from inceptionctl.protocols import ProtocolName, make_protocol
from inceptionctl.recipe import Ensemble, Recipe
from inceptionctl.run import Run, is_run, refuse_another_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint_choice import choose_checkpoint
from inceptionctl.words import counted, percent


@dataclass(frozen=True)
class MemberState:
    """Progress of a member."""

    step: int
    """Optimizer steps of the newest whole checkpoint; 0 where there is none."""
    trained: bool
    """Whether the training is finished."""
    record: Path | None
    """The EMA weights' probabilities of the recipe's images, once they are trained and evaluated by the protocol."""
    chosen: str = field(default="", compare=False)
    """Which checkpoint is evaluated once it is trained, in words."""


@dataclass(frozen=True)
class EnsembleMember:
    """One training of an ensemble and its run directory, which may not exist yet."""

    name: str
    recipe: Recipe
    run: Run

    @property
    def recipe_file(self) -> Path:
        """The complete recipe, beside the run directory, since that may not exist yet."""
        return self.run.path.with_name(f"{self.name}.yaml")

    def state(self, protocol: ProtocolName, which: str | None = None) -> MemberState:
        """Look into the run directory; `which` checkpoint is evaluated, `load_trained` tells.

        Raises CheckpointError when there are checkpoints but none is whole, or none such.
        """
        checkpoint = files.newest_whole(self.run.checkpoints)[0] if is_run(self.run.path) else None
        if checkpoint is None:
            return MemberState(0, False, None)
        step, trained = files.step_of(checkpoint), files.reached_end(files.read_progress(checkpoint), self.recipe)
        if not trained:
            return MemberState(step, trained, None)
        choice = choose_checkpoint(self.run.path, which)
        return MemberState(step, trained, self._record(files.step_of(choice.checkpoint), protocol), choice.in_words())

    def _record(self, step: int, protocol: ProtocolName) -> Path | None:
        """None for an evaluation of another data root, of a subset, or by other scales, too."""
        file = self.run.evaluations / f"step-{step:08d}_ema_{protocol}.json"
        crops = make_protocol(protocol, self.recipe.model.input_px)
        sides = list(crops.shorter_sides) if crops else None
        told = _read(file)
        same = all(key in told and told[key] == value for key, value in {"subset": "all", "scales": sides}.items())
        same = same and _is_of(self.recipe.data.root_path, told)
        return file.with_suffix(".parquet") if same and file.with_suffix(".parquet").is_file() else None


def members_of(ensemble: Ensemble, folder: Path) -> list[EnsembleMember]:
    """Each member with its run directory in `folder`. Raises CheckpointError for one that was begun with another recipe."""
    members = [EnsembleMember(name, recipe, Run(folder / name)) for name, recipe in ensemble.members.items()]
    for member in members:
        refuse_another_run(member.recipe, member.run)
    return members


def check_same_images(members: Sequence[EnsembleMember]) -> None:
    """Raise DataError unless all members validate on the same images and classes: otherwise only the finished trainings would show it."""
    sources = [(member.recipe.data.root_path, member.recipe.data.sources(member.recipe.data.root_path)) for member in members]
    opened = None
    for member, (root, told) in zip(members, sources, strict=True):
        if (root, told) == sources[0]:
            continue
        opened = opened or open_split(sources[0][0], "val", **sources[0][1])
        images = open_split(root, "val", **told)
        for what, same in (
            ("classes", images.classes == opened.classes),
            ("images", names_below_root(images) == names_below_root(opened)),
            ("labels", images.labels.tolist() == opened.labels.tolist()),
        ):
            if not same:
                raise DataError(
                    f"{members[0].name} and {member.name} would be validated on different {what}: {opened.folder} and {images.folder}",
                    "an ensemble is evaluated on one set of images: give all members the same section `data`",
                )


def _is_of(root: Path, told: Mapping[str, object]) -> bool:
    """Whether an evaluation is of the data set at `root`: as written, since runs are moved with their data, or however it is spelled."""
    # Lexically: a link may have named other images then. Evaluations of earlier versions have the root as written alone.
    written, absolute = told.get("data_root"), told.get("data_root_absolute")
    return written == str(root) or (isinstance(absolute, str) and normpath(absolute) == normpath(root.absolute()))


def _read(file: Path) -> dict[str, object]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


# What must be the same in all members for their mean to be one evaluation, in words for messages.
SHARED = {"protocol": "protocols", "classes": "classes, or another order of them"}


def combine(
    records: Sequence[Record], names: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[Tensor, EnsembleResult]:
    """(mean probabilities float32 [N, classes], result as JSON values) of members evaluated on the same images.

    `weights` are relative; equal by default. `members` are the figures of each, `differ` the share of images in percent of which two
    members name another class, and `agree` of which all name the same. Raises DataError for members of different images, classes or
    protocols, RecipeError for weights that do not fit. `seconds_per_image` is the sum over the members, where all are known.
    """
    probabilities, shares = mean_answer(records, names, weights)
    labels = records[0].labels
    if not len(labels):
        raise DataError(
            f"{names[0]} has no labels, so errors cannot be computed", "--submission FILE writes the ensemble's predictions"
        )
    seconds = [seconds_per_image(record) for record in records]
    each = [figures(record.probabilities, record.labels) for record in records]
    predicted = [record.probabilities.argmax(1) for record in records]
    images: AnsweredImages = {}
    for key in ("data_root", "subset"):
        if key in records[0].about:
            images[key] = records[0].about[key]
    result: EnsembleResult = {
        "protocol": records[0].about["protocol"],
        **figures(probabilities, labels),
        **classwise(probabilities.numpy(), labels.numpy(), records[0].about["classes"]),
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
    check_same_answered(records, names)
    shares = _shares(weights, len(records))
    mean = sum(share * record.probabilities.double() for share, record in zip(shares, records, strict=True))
    assert isinstance(mean, Tensor)
    return mean.float(), shares


def seconds_per_image(record: Record) -> float | None:
    """Seconds an image of the evaluation that made the record, decoding included."""
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


def check_same_answered(records: Sequence[Record], names: Sequence[str]) -> None:
    """Raise DataError unless all records are of the same images, labels, classes and protocol."""
    first = records[0]
    for record, name in zip(records[1:], names[1:], strict=True):
        for key, words in SHARED.items():
            if record.about.get(key) != first.about.get(key):
                told = f": {first.about.get(key)} and {record.about.get(key)}" if key == "protocol" else ""
                raise DataError(f"{names[0]} and {name} have different {words}{told}", "evaluate both in the same way first")
        if record.images != first.images:
            raise DataError(_different_images(first, record, names[0], name), "evaluate both on the same data set and subset")
        if not torch.equal(record.labels, first.labels):
            raise DataError(
                f"{names[0]} and {name} give the same images different labels", "evaluate both on the same data set"
            )


def _different_images(first: Record, other: Record, name: str, other_name: str) -> str:
    message = f"{name} and {other_name} are of different images: {len(first.images)} and {len(other.images)}"
    only = sorted(set(first.images) ^ set(other.images))
    return f"{message}; only one has {only[0]}" if only else f"{message}; their order differs"
