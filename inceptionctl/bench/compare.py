"""`bench compare`: the figures of two results side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from inceptionctl.errors import DataError

_NUMBERS = ("median", "low", "high")


class FigureRow(TypedDict):
    """One figure as a bench has written it, of which these are compared."""

    name: str
    unit: str
    median: float
    low: float
    high: float


class BenchResult(TypedDict):
    """What a bench has written; beside these, what its figures were made with."""

    bench: str
    figures: list[FigureRow]


@dataclass(frozen=True)
class Pair:
    """One figure of two results."""

    name: str
    unit: str
    one: FigureRow
    other: FigureRow

    @property
    def ratio(self) -> float | None:
        """The second median by the first; None where that is 0."""
        return self.other["median"] / self.one["median"] if self.one["median"] else None

    @property
    def overlaps(self) -> bool:
        """Whether the ranges from lowest to highest meet: where they do, the difference may be the machine's."""
        return bool(self.one["low"] <= self.other["high"] and self.other["low"] <= self.one["high"])

    def to_json(self) -> dict[str, object]:
        """name, unit, both figures, ratio and overlap."""
        return {
            "name": self.name,
            "unit": self.unit,
            "a": self.one,
            "b": self.other,
            "ratio": self.ratio,
            "ranges_overlap": self.overlaps,
        }


def read_result(path: Path) -> BenchResult:
    """What a `bench` command wrote. Raises DataError when it is something else."""
    wrong = DataError(f"{path} is no result of `inceptionctl bench`", "a file that a bench command wrote with --output")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise DataError(f"cannot read {path}: {fault}", wrong.hint) from None
    if not isinstance(result, dict) or not isinstance(result.get("figures"), list) or not isinstance(result.get("bench"), str):
        raise wrong
    for figure in result["figures"]:
        named = isinstance(figure, dict) and {"name", "unit"} <= figure.keys()
        if not named or not all(isinstance(figure.get(key), int | float) for key in _NUMBERS):
            raise wrong
    return cast(BenchResult, result)


def compare(one: BenchResult, other: BenchResult) -> tuple[list[Pair], list[str], list[str]]:
    """(figures of the same name and unit, in the order of the first; what the two were made with that differs; figures of one alone).

    Raises DataError when they are of different benches: their figures of the same name would not mean the same.
    """
    if one["bench"] != other["bench"]:
        raise DataError(
            f"one is of bench {one['bench']}, the other of bench {other['bench']}", "compare two results of the same command"
        )
    first, second = ({(figure["name"], figure["unit"]): figure for figure in result["figures"]} for result in (one, other))
    pairs = [Pair(*key, first[key], second[key]) for key in first if key in second]
    if not pairs:
        raise DataError("the two have no figure in common", "compare results of the same command with the same options")
    told = {"figures", "made", "command", "load_average", "largest_difference", "alpha_s", "bytes_per_s"}
    told |= {"peak_memory_bytes", "torch_peak_memory_bytes"}
    differ = [
        f"{key}: {one.get(key)} and {other.get(key)}"
        for key in dict.fromkeys((*one, *other))
        if key not in told and one.get(key) != other.get(key)
    ]
    alone = [f"{name} ({unit})" for name, unit in (*first, *second) if ((name, unit) in first) != ((name, unit) in second)]
    return pairs, differ, alone
