"""Turns between the steps of a training loop: who comes when, what is counted, and how it ends."""

import itertools
import time

import pytest

from inceptionctl.bench.loop import Turns, _EnoughError
from inceptionctl.bench.measuring import Contestant
from inceptionctl.errors import ResumeLater


def turns(calls: list[str], passes: int, requested: str | None = None) -> Turns:
    sources = {"a": itertools.repeat("batch of a"), "b": itertools.repeat("batch of b")}
    other = Contestant("other", lambda: calls.append("other"), 1)
    options = {"passes": passes, "repeats": 2, "together": lambda: None, "requested": lambda: requested}
    return Turns(sources, [other], **options)  # type: ignore[arg-type]


def test_sources_and_others_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    measured = turns(calls, passes=2)
    with pytest.raises(_EnoughError):
        for batch in measured:
            calls.append(str(batch))
            time.sleep(0.01)
    assert calls == ["other", *["batch of a"] * 2, *["batch of b"] * 2] * 3
    counted = measured.counted()
    assert {name: len(rounds) for name, rounds in counted.items()} == {"a": 2, "b": 2, "other": 2}
    assert all(taken.seconds >= 0.02 for taken in counted["a"] + counted["b"])
    assert all(taken.seconds < 0.02 for taken in counted["other"])


def test_a_signal_ends_it_after_a_turn() -> None:
    with pytest.raises(ResumeLater, match="SIGTERM"):
        list(turns([], passes=1, requested="SIGTERM"))
