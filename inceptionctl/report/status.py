"""What `inceptionctl watch` shows of a run: progress, metrics and time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from inceptionctl.run_contents import RunContents, finite
from inceptionctl.words import error_and_accuracy

Row = Mapping[str, Any]

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.,:-=+#"
SPARK_WIDTH = 48
ROWS_FOR_SPEED = 20


def total_steps(found: RunContents) -> int | None:
    """Optimizer steps of the whole run, from its newest checkpoint; before the first, estimated from the last row's epoch."""
    told = found.progress.get("total_steps")
    if isinstance(told, int):
        return told
    if found.recipe is None or not found.train_rows:
        return None
    step, epoch = found.train_rows[-1]["step"], finite(found.train_rows[-1].get("epoch"))
    total = round(found.recipe.train.epochs * step / epoch) if epoch else None
    limit = found.recipe.train.max_steps
    return total if limit is None or total is None else min(total, limit)


def seconds_left(found: RunContents) -> float | None:
    """At the pace of the last twenty rows, validations included; None before there are two rows.

    Only times of the training machine are compared, so its clock may differ from this one's.
    """
    rows = [row for row in found.train_rows[-ROWS_FOR_SPEED:] if finite(row.get("time")) is not None]
    total = total_steps(found)
    if total is None or len(rows) < 2:
        return None
    steps, seconds = rows[-1]["step"] - rows[0]["step"], rows[-1]["time"] - rows[0]["time"]
    return (total - rows[-1]["step"]) * seconds / steps if steps > 0 and seconds > 0 else None


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH, bars: str = BARS) -> str:
    """Values as a row of bars of eight heights, each bar the mean of its share of the values."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * k // count for k in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, room = min(means), max(means) - min(means)
    return "".join(bars[round(7 * (value - low) / room)] if room else bars[3] for value in means)


def in_gigabytes(value: float) -> str:
    """Bytes as GB."""
    return f"{value / 1e9:.2f} GB"


def lines(found: RunContents, now: float, bars: str = BARS) -> list[tuple[str, str]]:
    """Pairs of name and value. `now` is the time here, in seconds since 1970; `bars` draw the loss."""
    last: Row = found.train_rows[-1] if found.train_rows else {}
    total = total_steps(found)
    epoch = "" if found.epoch is None else f", epoch {found.epoch:.2f}"
    shown = [("state", found.why), ("step", f"{found.step} of {'?' if total is None else total}{epoch}")]
    shown += [
        (name, in_words(value))
        for key, name, in_words in (
            ("loss", "loss", "{:.4f}".format),
            ("learning_rate", "learning rate", "{:.3g}".format),
            ("grad_norm", "gradient norm", "{:.3g}".format),
            ("clipped_share", "steps clipped", "{:.0%}".format),
            ("images_per_second", "speed", "{:,.1f} images/s".format),
            ("data_wait", "waits for data", "{:.1%} of the time".format),
            ("peak_memory_bytes", "memory at most", in_gigabytes),
            ("torch_peak_memory_bytes", "tensors at most", in_gigabytes),
            ("zero_share", "zeros before pool", "{:.1%}".format),
            ("bad_images", "bad images", "{:.0f}".format),
        )
        if (value := finite(last.get(key))) is not None
    ]
    if found.recipe and found.epoch is not None and (frozen := found.recipe.model.frozen_in_words(found.epoch)):
        shown.append(("frozen", frozen))
    losses = [value for row in found.train_rows if (value := finite(row.get("loss"))) is not None]
    if losses:
        shown.append(("loss so far", sparkline(losses, bars=bars)))
    errors = [row for row in found.evaluate_rows if finite(row.get("top1_error")) is not None]
    for row in errors[-3:]:
        top5 = finite(row.get("top5_error")) if found.has_top5 else None
        of = f", {row['subset']}" if row.get("subset", "all") != "all" else ""
        errors_in_words = f"top-1 error {error_and_accuracy(row['top1_error'])}" + (
            "" if top5 is None else f", top-5 error {top5:.2f}%"
        )
        shown.append((f"validation {row['step']}", errors_in_words + of))
    written = finite(last.get("time"))
    if written is not None and found.state != "finished":
        shown.append(("last row", f"{max(0, round(now - written))} s ago"))
    return shown
