"""Measurements read from the JSON of `inceptionctl bench`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.scaling.collectives import Link
from inceptionctl.scaling.prediction import Compute
from inceptionctl.words import counted

OWN = "inceptionctl"
"""The name in `bench step` of the training loop's rate, beside its parts and other programs' loops."""


@dataclass(frozen=True)
class Rate:
    """Images a second of one GPU at micro batch `images`; `source` says where the figure comes from."""

    per_second: float
    images: int
    source: str

    @property
    def seconds(self) -> float:
        """Of one pass."""
        return self.images / self.per_second


def given_rates(
    files: Sequence[Path], figure: str | None, images_per_second: float | None, step_seconds: float | None, images: int
) -> list[Rate]:
    """The measured rates: from files, or as a given rate or step time, at micro batch `images` by default.

    Raises RecipeError when it is given in several ways, and what `read_rate` raises.
    """
    if bool(files) + (images_per_second is not None) + (step_seconds is not None) > 1:
        raise RecipeError("one GPU's speed is given several times", "give --step, --images-per-second or --step-seconds")
    rates = [read_rate(path, figure, images) for path in files]
    if images_per_second:
        rates.append(
            Rate(images_per_second, images, f"{images_per_second:g} images/s at {counted(images, 'image')} a GPU (as given)")
        )
    if step_seconds:
        rates.append(
            Rate(images / step_seconds, images, f"{step_seconds:g} s a step of {counted(images, 'image')} a GPU (as given)")
        )
    return rates


def estimated_rate(multiply_adds: int, peak_tflops: float, utilisation: float, images: int) -> Rate:
    """An estimate, and its source says so: the rate of a GPU that reaches `utilisation` of its peak (MFU).

    Two FLOP a MAC, and a backward pass as two forward ones.
    """
    rate = peak_tflops * 1e12 * utilisation / (6 * multiply_adds)
    words = f"{multiply_adds / 1e9:.1f} G multiply-adds forward, {utilisation:.0%} of {peak_tflops:g} TFLOP/s"
    return Rate(rate, images, f"ESTIMATE, nothing measured: {rate:.0f} images/s ({words})")


def read_rate(path: Path, figure: str | None, images: int) -> Rate:
    """The rate in a bench's JSON: the named figure, else that of inceptionctl's loop, else the only one in images/s.

    The images of a step are the file's `images` or `micro_batch_size`, else `images`. Raises DataError when there is no such figure, or it
    was measured on several ranks.
    """
    content, figures = _read(path)
    if content.get("ranks", 1) != 1:
        raise DataError(f"{path} was measured on {content['ranks']} ranks", "give a step of one rank, without communication")
    rates = {each["name"]: each for each in figures if each["unit"] == "images/s"}
    if figure is None and len(rates) > 1 and OWN not in rates:
        raise DataError(f"{path} has several figures in images/s", f"name one with --figure: {', '.join(map(repr, rates))}")
    chosen = rates.get(figure or (OWN if OWN in rates else next(iter(rates), "")))
    if chosen is None:
        listed = ", ".join(map(repr, rates)) or "none"
        raise DataError(f"{path} has no figure {figure or 'in images/s'}", f"figures in images/s are: {listed}")
    taken = content.get("images") or content.get("micro_batch_size") or images
    if not isinstance(taken, int) or taken < 1:
        raise DataError(f"{path}: a step of {taken!r} images", "measure it again")
    rate = _positive(chosen["median"], path)
    return Rate(rate, taken, f"{rate:.4g} images/s at {counted(taken, 'image')} a GPU ({path.name}, {chosen['name']}, median)")


def read_link(path: Path) -> Link:
    """The ring link fitted by `bench allreduce`: seconds = alpha_s + bytes / bytes_per_s over its ranks.

    Raises DataError when these are not there.
    """
    content, _ = _read(path)
    ranks, alpha, rate = (content.get(key) for key in ("ranks", "alpha_s", "bytes_per_s"))
    if not isinstance(ranks, int) or ranks < 2 or not isinstance(alpha, int | float) or alpha < 0:
        raise DataError(
            f"{path} has no fit over two ranks or more", "make it with `inceptionctl bench allreduce --output FILE`"
        )
    if rate is None:
        raise DataError(
            f"{path} tells no rate: its sums took no longer for more bytes",
            "measure again with larger sums (`--largest`) or more `--repeats`",
        )
    hops = 2 * (ranks - 1)
    return Link(hops / ranks * _positive(rate, path), alpha / hops)


def read_loader_rate(path: Path) -> float:
    """Images a second of one CPU core, from the JSON of `bench data`. Raises DataError when it is missing."""
    _, figures = _read(path)
    for each in figures:
        if each["name"] == "all" and each["unit"] == "images/CPU s":
            return _positive(each["median"], path)
    raise DataError(f"{path} has no figure `all` in images/CPU s", "make one with `inceptionctl bench data --output FILE`")


def fit_compute(rates: Sequence[Rate]) -> Compute:
    """Seconds of a pass by its images: proportional for one measurement, a least-squares line for several.

    Raises RecipeError when several are of the same micro batch, or larger ones take less time.
    """
    smallest = min(rate.images for rate in rates)
    if len(rates) == 1:
        return Compute(rates[0].seconds / rates[0].images, 0.0, smallest)
    if len({rate.images for rate in rates}) == 1:
        raise RecipeError(f"all steps were measured with {smallest} images", "measure another micro batch, or give one --step")
    slope, intercept = linear_regression([rate.images for rate in rates], [rate.seconds for rate in rates])
    if slope <= 0:
        raise RecipeError("the measured steps do not get longer with more images", "measure them again, on the same quiet GPU")
    return Compute(slope, max(0.0, intercept), smallest)


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    hint = "give a file that `inceptionctl bench ... --output FILE` has written"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint) from None
    figures = content.get("figures") if isinstance(content, dict) else None
    if not isinstance(figures, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) and {"unit", "median"} <= each.keys() for each in figures
    ):
        raise DataError(f"{path} has no `figures` with name, unit and median", hint)
    return content, figures


def _positive(value: object, path: Path) -> float:
    if isinstance(value, int | float) and 0 < value < math.inf:
        return float(value)
    raise DataError(f"{path}: a rate of {value!r}", "measure it again")
