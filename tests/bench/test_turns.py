"""Turns between the steps of a training loop: who comes when, what is counted, and how it ends."""

import itertools
import time
from pathlib import Path

import pytest

from inceptionctl.bench.figures import Contestant
from inceptionctl.bench.turns import STEPS_WITHOUT_END, Turns, _EnoughError
from inceptionctl.errors import ResumeLater
from inceptionctl.recipe import recipe_from_dict
from inceptionctl.run import create_run
from inceptionctl.train.runlog import RunLog


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
    # Nothing waits in the other's turns: those of the loop are not counted as theirs.
    assert min(taken.seconds for taken in counted["other"]) < min(taken.seconds for taken in counted["a"])


def test_a_signal_ends_it_after_a_turn() -> None:
    with pytest.raises(ResumeLater, match="SIGTERM"):
        list(turns([], passes=1, requested="SIGTERM"))


def test_rounds_are_told_and_no_step_of_a_training_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, int]] = []
    measured = turns([], passes=2)
    measured._progress = lambda *words: told.append(words)
    with pytest.raises(_EnoughError):
        list(measured)
    assert told == [("rounds", done, 3) for done in range(3)]
    run = create_run(tmp_path / "run", recipe_from_dict({}, "test"))
    for of_a_training in (True, False):
        log = RunLog(run, start_step=0, enabled=True, of_a_training=of_a_training)
        log.progress(f"step 5/{STEPS_WITHOUT_END}", window_ended=True)
        log.close()
        assert (str(STEPS_WITHOUT_END) in capsys.readouterr().err) is of_a_training
