"""Pictures of a report: curves of several runs together, calibration, worst confusions. Each in light and dark."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Rows = Sequence[Mapping[str, Any]]
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")

INK = {"light": "#1b1f24", "dark": "#d7dde4"}
PAPER = {"light": "#ffffff", "dark": "#16191d"}
GRID = {"light": "#d8dee4", "dark": "#363c44"}
# Told apart with every common colour blindness, on both grounds (Okabe and Ito; yellow left out).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("-", "--", ":", "-.")

TRAIN_CURVES = (
    ("loss", "training loss", "linear"),
    ("learning_rate", "learning rate", "log"),
    ("grad_norm", "gradient norm", "log"),
    ("zero_share", "share of zeros before the pool", "linear"),
    ("images_per_second", "images/s", "linear"),
    ("data_wait", "share of time waiting for data", "linear"),
)


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows in words, for who cannot see it."""

    name: str
    title: str
    alt: str
    png: Mapping[Theme, bytes]


def error_curves(runs: Mapping[str, Rows]) -> Picture | None:
    """Top-1 and top-5 validation error by epoch, as the paper's Figures 21 to 26.

    `runs` are the evaluate rows of each, by name; all of one are of the same images.
    """
    shown = {name: rows for name, rows in runs.items() if rows}
    if not shown:
        return None
    ends = [f"{name}: {_last(rows, 'top1_error')}" for name, rows in shown.items()]
    with_top5 = any(row.get("top5_error") for rows in shown.values() for row in rows)

    def draw(figure: Any) -> None:
        keys = (("top1_error", "top-1 error in %"), ("top5_error", "top-5 error in %"))[: 2 if with_top5 else 1]
        for axes, (key, label) in zip(figure.subplots(1, len(keys), squeeze=False).flat, keys, strict=True):
            _lines(axes, shown, key, marker="o")
            axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        _legend(figure, shown)

    alt = f"Validation error by epoch; at the end top-1 error {', '.join(ends)}."
    return Picture("errors", "Validation error by epoch (EMA weights)", alt, _both(draw, (9.6, 4.2)))


def train_curves(runs: Mapping[str, Rows]) -> Picture | None:
    """Loss, learning rate, gradient norm, share of zeros, images/s and data wait by epoch. `runs` are the train rows of each."""
    shown = {name: rows for name, rows in runs.items() if rows}
    if not shown:
        return None

    def draw(figure: Any) -> None:
        for axes, (key, label, scale) in zip(figure.subplots(2, 3).flat, TRAIN_CURVES, strict=True):
            drawn = _lines(axes, shown, key)
            axes.set(xlabel="epoch", ylabel=label)
            if scale == "log" and drawn:
                axes.set_yscale("log")
        _legend(figure, shown)

    ends = [f"{name} {_last(rows, 'loss')}" for name, rows in shown.items()]
    return Picture(
        "training", "Training", f"Training curves by epoch; loss at the end: {', '.join(ends)}.", _both(draw, (11.4, 6.4))
    )


def reliability(name: str, result: Mapping[str, Any]) -> Picture | None:
    """Accuracy against confidence of one evaluation, with how many images each bin holds."""
    bins = result.get("calibration")
    if not bins:
        return None
    confidence, accuracy = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
    counts = [one["num_images"] for one in bins]

    def draw(figure: Any) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        top.plot(confidence, accuracy, marker="o", color=COLOURS[0])
        top.set(ylabel="accuracy", ylim=(0, 1))
        bottom.bar(confidence, counts, width=0.05, color=COLOURS[0])
        bottom.set(xlabel="confidence", ylabel="images", xlim=(0, 1))

    alt = f"Reliability of {name}: expected calibration error {result['calibration_error']:.2f}% over {sum(counts)} images."
    return Picture(f"reliability-{name}", f"Reliability of {name}", alt, _both(draw, (4.8, 4.8)))


def _last(rows: Rows, key: str) -> str:
    values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    return f"{values[-1]:.2f}" if values else "none"


def _lines(axes: Any, runs: Mapping[str, Rows], key: str, marker: str = "") -> bool:
    drawn = False
    for number, rows in enumerate(runs.values()):
        points = [
            (row["epoch"], row[key]) for row in rows if all(isinstance(row.get(name), int | float) for name in ("epoch", key))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, **_style(number))
            drawn = True
    return drawn


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}


def _legend(figure: Any, runs: Mapping[str, Rows]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **_style(number)) for number, name in enumerate(runs)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)


def _both(draw: Any, size: tuple[float, float]) -> dict[Theme, bytes]:
    return {theme: _rendered(draw, size, theme) for theme in THEMES}


def _rendered(draw: Any, size: tuple[float, float], theme: Theme) -> bytes:
    from matplotlib.figure import Figure

    with _colours(theme):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.grid(True)
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
