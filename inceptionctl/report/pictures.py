"""Pictures of a report: curves of several runs together, calibration, confusion matrices. Each in light and dark."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")

INK = {"light": "#1b1f24", "dark": "#d7dde4"}
PAPER = {"light": "#ffffff", "dark": "#16191d"}
GRID = {"light": "#d8dee4", "dark": "#363c44"}
# Distinguishable with every common colour blindness, on light and dark (Okabe and Ito, without yellow).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("-", "--", ":", "-.")

# Colour map of a confusion matrix, starting from the background.
DEPTHS = {"light": ("#d6e6f2", "#0072b2", "#003a5c"), "dark": ("#143246", "#2f8ec4", "#b5dcf5")}
MAX_HEAT_CLASSES, MAX_WRITTEN_CLASSES = 40, 20
LONGEST_NAME = 32
LETTERS_AN_INCH = 12  # of a legend

TRAIN_CURVES = (
    ("loss", "training loss", "linear"),
    ("learning_rate", "learning rate", "log"),
    ("grad_norm", "gradient norm", "log"),
    ("zero_share", "share of zeros before the pool", "linear"),
    ("images_per_second", "images/s", "linear"),
    ("data_wait", "share of time waiting for data", "linear"),
)


@dataclass(frozen=True)
class ReportPicture:
    """A picture with its alternative text."""

    name: str
    title: str
    alt: str
    png: Mapping[Theme, bytes]


def error_curves(runs: Mapping[str, Rows], *, with_top5: bool) -> ReportPicture | None:
    """Top-1 and top-5 validation error by epoch, as the paper's Figures 21 to 26.

    `runs` are the evaluate rows of each, by name, all on the same images.
    """
    shown = {name: rows for name, rows in runs.items() if rows}
    if not shown:
        return None
    ends = [f"{name}: {_last(rows, 'top1_error')}" for name, rows in shown.items()]

    def draw(figure: Any, theme: Theme) -> None:
        keys = (("top1_error", "top-1 error in %"), ("top5_error", "top-5 error in %"))[: 2 if with_top5 else 1]
        for axes, (key, label) in zip(figure.subplots(1, len(keys), squeeze=False).flat, keys, strict=True):
            _lines(axes, shown, key, marker="o")
            axes.set(xlabel="epoch", ylabel=label, ylim=(0, 1.05 * axes.dataLim.ymax if axes.lines else None))
        _legend(figure, shown)

    alt = f"Validation error by epoch; at the end top-1 error {', '.join(ends)}."
    return ReportPicture("errors", "Validation error by epoch (EMA weights)", alt, _both(draw, (9.6, 4.2)))


def train_curves(runs: Mapping[str, Rows], losses: Mapping[str, str]) -> ReportPicture | None:
    """Loss, learning rate, gradient norm, share of zeros, images/s and data wait by epoch.

    `runs` are the train rows of each, `losses` describes each training loss.
    """
    shown = {name: rows for name, rows in runs.items() if rows}
    if not shown:
        return None

    def draw(figure: Any, theme: Theme) -> None:
        for axes, (key, label, scale) in zip(figure.subplots(2, 3).flat, TRAIN_CURVES, strict=True):
            drawn = _lines(axes, shown, key)
            axes.set(xlabel="epoch", ylabel=label)
            if scale == "log" and drawn:
                axes.set_yscale("log")
        _legend(figure, shown)

    ends = [f"{name} {_last(rows, 'loss')}" for name, rows in shown.items()]
    alt = f"Training curves by epoch; loss at the end: {', '.join(ends)}."
    return ReportPicture(
        "training", f"Training. {_losses_in_words({name: losses[name] for name in shown})}", alt, _both(draw, (11.4, 6.4))
    )


def seed_curves(
    name: str, title: str, groups: Mapping[str, Sequence[Rows]], key: str, label: str, *, as_paper: bool = False
) -> ReportPicture | None:
    """A measure by epoch of several trainings: every seed thin, their median thick. `groups` are the rows of each seed, by name.

    `as_paper` gives the layout of the paper's Figures 21 to 26, which show the later part of the curves; else the axis begins at 0.
    """
    shown = {group: [rows for rows in seeds if _points(rows, key)] for group, seeds in groups.items()}
    shown = {group: seeds for group, seeds in shown.items() if seeds}
    if not shown:
        return None
    medians = {group: _median_curve(seeds, key) for group, seeds in shown.items()}

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for number, (group, seeds) in enumerate(shown.items()):
            marker = "o" if len(medians[group]) == 1 else ""  # a line of one point would not be seen
            for rows in seeds if len(seeds) > 1 else ():
                axes.plot(*zip(*_points(rows, key), strict=True), marker=marker, linewidth=0.8, alpha=0.5, **_style(number))
            axes.plot(*zip(*medians[group], strict=True), marker=marker, linewidth=2.4, **_style(number))
        axes.set(xlabel="epoch", ylabel=label)
        if as_paper:
            _lay_out_as_paper(axes, [_points(rows, key) for seeds in shown.values() for rows in seeds], list(medians.values()))
        else:
            axes.set_ylim(bottom=0)
        _legend(figure, shown, axes if as_paper and len(shown) <= len(COLOURS) else None)

    ends = [f"{group} {curve[-1][1]:.2f}" for group, curve in medians.items()]
    height = 4.0 + 0.2 * math.ceil(len(shown) / _columns(shown, 5.6))  # a long legend must not take the axes' room
    return ReportPicture(name, title, f"{title}: {label}; medians at the end: {', '.join(ends)}.", _both(draw, (5.6, height)))


Curve = Sequence[tuple[float, float]]


def _lay_out_as_paper(axes: Any, seeds: Sequence[Curve], medians: Sequence[Curve]) -> None:
    """A box with a dashed grid, from an eighth of the epochs on (the paper's 20 of 160), as high as the medians are after a quarter.

    The end of a curve that has not got so far is seen too.
    """
    ends = [curve[-1][0] for curve in medians]
    left = min(max(ends) / 8, min(ends) / 2)
    high = max(value for curve in medians for epoch, value in curve if epoch >= min(max(ends) / 4, curve[-1][0]))
    low = min(value for curve in seeds for _, value in curve)
    margin = 0.1 * (high - low) or 1.0
    axes.set(xlim=(left, max(ends)), ylim=(max(0.0, low - margin), high + margin))
    axes.spines[:].set_visible(True)
    axes.grid(visible=True, linestyle="--")


def _points(rows: Rows, key: str) -> list[tuple[float, float]]:
    numbers = [(row.get("epoch"), row.get(key)) for row in rows]
    return [(x, y) for x, y in numbers if isinstance(x, int | float) and isinstance(y, int | float) and math.isfinite(y)]


def _median_curve(seeds: Sequence[Rows], key: str) -> list[tuple[float, float]]:
    """The median over those seeds that have got so far."""
    at: dict[float, list[float]] = {}
    for rows in seeds:
        for epoch, value in _points(rows, key):
            at.setdefault(epoch, []).append(value)
    return [(epoch, float(np.median(values))) for epoch, values in sorted(at.items())]


def _losses_in_words(losses: Mapping[str, str]) -> str:
    kinds = dict.fromkeys(text for text in losses.values() if text)
    if len(kinds) == 1:
        return f"The loss: {next(iter(kinds))}."
    return " ".join(f"The loss of {', '.join(name for name in losses if losses[name] == kind)}: {kind}." for kind in kinds)


def reliability(name: str, result: Mapping[str, Any]) -> ReportPicture | None:
    """Accuracy against confidence of one evaluation, with how many images each bin holds."""
    bins = result.get("calibration")
    if not bins:
        return None
    confidence, accuracy = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
    counts = [one["num_images"] for one in bins]

    def draw(figure: Any, theme: Theme) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfectly calibrated")
        top.plot(confidence, accuracy, marker="o", color=COLOURS[0], label="measured", clip_on=False)
        top.set(ylabel="accuracy", ylim=(0, 1))
        top.legend(loc="lower right", frameon=False)
        bottom.bar(confidence, counts, width=0.05, color=COLOURS[0])
        bottom.set(xlabel="confidence", ylabel="images", xlim=(-0.03, 1.03))

    alt = f"Reliability of {name}: expected calibration error {result['calibration_error']:.2f}% over {sum(counts)} images."
    return ReportPicture(f"reliability-{name}", f"Reliability of {name}", alt, _both(draw, (4.8, 4.8)))


def confusion(name: str, matrix: NDArray[np.int64], classes: Sequence[str]) -> ReportPicture:
    """The confusion matrix [true, predicted] of images as a heat map, each row coloured by its own shares."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    names = [textwrap.fill(one, LONGEST_NAME) for one in classes]
    letters = max(len(line) for one in names for line in one.splitlines())
    side = 1.6 + 0.08 * letters + max(0.26, 0.6 - 0.025 * len(classes)) * len(classes)

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        heat = axes.imshow(shares, cmap=_depths(theme), vmin=0.0, vmax=1.0)
        axes.set(xlabel="predicted", ylabel="true class")
        axes.set_xticks(range(len(names)), names, rotation=0 if letters <= 3 else 90)
        axes.set_yticks(range(len(names)), names)
        if len(classes) <= MAX_WRITTEN_CLASSES:
            for (i, j), count in np.ndenumerate(matrix):
                # Contrasts with the cell, not with the page.
                ink = PAPER[theme] if shares[i, j] > 0.5 else INK[theme]
                if count:
                    axes.text(j, i, f"{count}", ha="center", va="center", color=ink, fontsize=8)
        bar = figure.colorbar(heat, ax=axes, shrink=0.8, format="{x:.0%}", label="share of the true class")
        bar.outline.set_visible(False)

    right, total = int(matrix.trace()), int(matrix.sum())
    alt = f"Confusion matrix of {name}: {right} of {total} images are on the diagonal."
    title = f"Confusion matrix of {name}: numbers of images, coloured by their share of the true class"
    if len(classes) > MAX_WRITTEN_CLASSES:
        title = f"Confusion matrix of {name}: shares of the images of each true class"
    return ReportPicture(f"confusion-{name}", title, alt, _both(draw, (side + 1.2, side), grid=False))


def _depths(theme: Theme) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("depths", [PAPER[theme], *DEPTHS[theme]])


def _last(rows: Rows, key: str) -> str:
    values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    return f"{values[-1]:.2f}" if values else "none"


def _lines(axes: Any, runs: Mapping[str, Rows], key: str, marker: str = "") -> bool:
    drawn = False
    for number, rows in enumerate(runs.values()):
        if points := _points(rows, key):
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, **_style(number))
            drawn = True
    return drawn


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}


def _legend(figure: Any, names: Collection[str], inside: Any = None) -> None:
    """Below the axes, or at the upper right `inside` of them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **_style(number)) for number, name in enumerate(names)]
    if inside:
        inside.legend(handles=handles, loc="upper right", fontsize="small")
        return
    columns = _columns(names, figure.get_figwidth())
    figure.legend(handles=in_rows(handles, columns), loc="outside lower center", ncols=columns, frameon=False)


def _columns(names: Collection[str], inches: float) -> int:
    """Of a legend so wide."""
    return max(1, min(3, len(names), int(LETTERS_AN_INCH * inches / (max(map(len, names)) + 6))))


def in_rows(items: Sequence[T], columns: int) -> list[T]:
    """Items reordered so that a legend, which fills its columns one by one, shows them row by row."""
    return [item for column in range(columns) for item in items[column::columns]]


def _both(draw: Any, size: tuple[float, float], *, grid: bool = True) -> dict[Theme, bytes]:
    return {theme: _rendered(draw, size, theme, grid) for theme in THEMES}


def _rendered(draw: Any, size: tuple[float, float], theme: Theme, grid: bool) -> bytes:
    from matplotlib.figure import Figure

    with _colours(theme):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, theme)
        for axes in figure.axes:
            axes.grid(grid)
            axes.set_axisbelow(True)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=130)
        return picture.getvalue()


@contextmanager
def _colours(theme: Theme) -> Iterator[None]:
    from matplotlib import rc_context

    ink = INK[theme]
    keys = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "legend.labelcolor")
    grounds = {"figure.facecolor": PAPER[theme], "axes.facecolor": PAPER[theme], "grid.color": GRID[theme]}
    with rc_context({**dict.fromkeys(keys, ink), **grounds, "axes.spines.top": False, "axes.spines.right": False}):
        yield
