import multiprocessing
import time

import pytest

from inceptionctl.bench.figures import Contestant, Figure, Taken, cpu_seconds, interleaved, rates, ratio


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    contestants = [
        Contestant("a", lambda: calls.append("a"), 1),
        Contestant("b", lambda: calls.append("b"), 1, lambda: calls.append("before b"), 1),
    ]
    said: list[tuple[str, int, int]] = []
    taken = interleaved(contestants, 2, lambda *words: said.append(words))
    assert calls == ["a", "before b", "b"] * 3
    assert {name: len(rounds) for name, rounds in taken.items()} == {"a": 2, "b": 2}
    assert said == [("a", 0, 6), ("b", 1, 6), ("a", 2, 6), ("b", 3, 6), ("a", 4, 6), ("b", 5, 6)]


def test_time_on_the_clock_is_of_the_round_and_processor_time_of_all() -> None:
    def work(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    contestant = Contestant("a", lambda: work(0.1), 1, lambda: work(0.3), 3)
    (taken,) = interleaved([contestant], 1, lambda *_: None)["a"]
    assert taken.seconds >= 0.1 and taken.cpu_seconds >= 0.4


def test_rates_and_ratios() -> None:
    contestants = [Contestant("a", lambda: None, 10, lambda: None, 5), Contestant("b", lambda: None, 10)]
    taken = {"a": [Taken(2.0, 3.0), Taken(1.0, 5.0), Taken(4.0, 1.0)], "b": [Taken(1.0, 1.0), Taken(1.0, 2.0), Taken(1.0, 4.0)]}
    figures = rates(contestants, taken, "images")
    assert [(figure.name, figure.unit, list(figure.values)) for figure in figures] == [
        ("a", "images/s", [5.0, 10.0, 2.5]),
        ("a", "images/CPU s", [5.0, 3.0, 15.0]),
        ("b", "images/s", [10.0, 10.0, 10.0]),
        ("b", "images/CPU s", [10.0, 5.0, 2.5]),
    ]
    assert ratio(figures, "a", "b", "images/s").values == [0.5, 1.0, 0.25]
    assert figures[0].to_json() == {
        "name": "a",
        "unit": "images/s",
        "median": 5.0,
        "low": 2.5,
        "high": 10.0,
        "n": 3,
        "values": [5.0, 10.0, 2.5],
    }
    assert Figure("x", "s", [0.01234, 1234.5]).spread() == "0.0123 to 1234"


def _busy(seconds: float, done: object, leave: object) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    done.set()  # type: ignore[attr-defined]
    leave.wait(60)  # type: ignore[attr-defined]


def test_children_count() -> None:
    context = multiprocessing.get_context("spawn")
    done, leave = context.Event(), context.Event()
    child = context.Process(target=_busy, args=(0.3, done, leave))
    before = cpu_seconds()
    child.start()
    try:
        assert done.wait(60)
        assert cpu_seconds() - before >= 0.3
    finally:
        leave.set()
        child.join()


@pytest.mark.parametrize(("value", "written"), [(1234.5, "1234"), (99.96, "100"), (12.345, "12.3"), (0.01234, "0.0123")])
def test_numbers_are_short(value: float, written: str) -> None:
    assert Figure("x", "s", [value]).spread() == f"{written} to {written}"
