"""How anything is measured here: contestants in turn, several rounds, medians, and processor time beside time on the clock."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS, _LONGEST_WAIT_SECONDS = 0.03, 10.0


@dataclass(frozen=True)
class Contestant:
    """Something that does a round of work when it is told to."""

    name: str
    """What tables and JSON call it."""
    round: Callable[[], object]
    """The work that is measured."""
    amount: int
    """Images of a round, or whatever is counted."""
    before: Callable[[], None] = lambda: None
    """Work of the same kind before each round, outside of its time on the clock: it uses up what lies ready in queues."""
    amount_before: int = 0
    """Images of that."""


@dataclass(frozen=True)
class Taken:
    """What one round took."""

    seconds: float
    """Of the round, on the clock."""
    cpu_seconds: float
    """Of the round and what comes before it, all processes together: holds on a machine that others keep busy too."""


@dataclass(frozen=True)
class Figure:
    """A quantity measured several times."""

    name: str
    unit: str
    values: Sequence[float]
    """In the order of the rounds."""

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    def to_json(self) -> dict[str, object]:
        """name, unit, median, low, high, n and the values themselves."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "n": len(self.values),
            "values": list(self.values),
        }

    def spread(self) -> str:
        """The lowest and the highest value, for people."""
        return f"{shown(min(self.values))} to {shown(max(self.values))}"


def shown(value: float) -> str:
    """Three digits that count, and no more places than whole numbers need."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interleaved(
    contestants: Sequence[Contestant], repeats: int, progress: Callable[[str, int, int], None], rounds_before: int = 1
) -> dict[str, list[Taken]]:
    """Every contestant once a round, in the same order: whatever else slows the machine slows all of them alike.

    The rounds before the first that counts make everybody warm. `progress(name, done, total)` is called before each.
    """
    taken: dict[str, list[Taken]] = {contestant.name: [] for contestant in contestants}
    total = (repeats + rounds_before) * len(contestants)
    for i in range(total):
        contestant = contestants[i % len(contestants)]
        progress(contestant.name, i, total)
        cpu = cpu_seconds()
        contestant.before()
        clock = time.perf_counter()
        contestant.round()
        seconds = time.perf_counter() - clock
        settle()  # full queues at the beginning and at the end: what was computed between is what was taken
        if i >= rounds_before * len(contestants):
            taken[contestant.name].append(Taken(seconds, cpu_seconds() - cpu))
    return taken


def rates(contestants: Sequence[Contestant], taken: Mapping[str, Sequence[Taken]], unit: str) -> list[Figure]:
    """For each contestant its amount a second on the clock, and a second of processor time."""
    figures = []
    for one in contestants:
        figures.append(Figure(one.name, f"{unit}/s", [one.amount / each.seconds for each in taken[one.name]]))
        figures.append(
            Figure(one.name, f"{unit}/CPU s", [(one.amount + one.amount_before) / each.cpu_seconds for each in taken[one.name]])
        )
    return figures


def costs(contestants: Sequence[Contestant], taken: Mapping[str, Sequence[Taken]], unit: str) -> list[Figure]:
    """For each contestant the seconds that one of its amount takes, on the clock and of processor time."""
    figures = []
    for one in contestants:
        figures.append(Figure(one.name, f"s/{unit}", [each.seconds / one.amount for each in taken[one.name]]))
        total = one.amount + one.amount_before
        figures.append(Figure(one.name, f"CPU s/{unit}", [each.cpu_seconds / total for each in taken[one.name]]))
    return figures


def ratio(figures: Sequence[Figure], one: str, other: str, unit: str) -> Figure:
    """`one` over `other`, round by round, so that what slowed both does not count."""
    values = {figure.name: figure.values for figure in figures if figure.unit == unit}
    return Figure(f"{one} / {other}", f"ratio of {unit}", [a / b for a, b in zip(values[one], values[other], strict=True)])


def cpu_seconds() -> float:
    """Processor time, user and system, of this process with all its threads and of the processes that multiprocessing started."""
    return time.process_time() + sum(_of_process(child.pid) for child in multiprocessing.active_children() if child.pid)


def _of_process(pid: int) -> float:
    with contextlib.suppress(OSError):
        # The name may hold blanks and brackets: fields are counted from the last one that closes.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def settle() -> None:
    """Wait until nothing of ours computes any more, at most some seconds."""
    deadline, last, quiet = time.perf_counter() + _LONGEST_WAIT_SECONDS, cpu_seconds(), 0
    while quiet < 2 and time.perf_counter() < deadline:
        time.sleep(_POLL_SECONDS)
        now = cpu_seconds()
        quiet = quiet + 1 if now - last < _POLL_SECONDS / 10 else 0
        last = now
