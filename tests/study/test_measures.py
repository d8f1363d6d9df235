"""Measures of a training and statistics over seeds, against numbers worked out by hand."""

from pathlib import Path

import pytest

from inceptionctl.recipe import load_recipe
from inceptionctl.run import Run
from inceptionctl.run_contents import RunContents
from inceptionctl.study.cells import choose
from inceptionctl.study.measures import final_loss, mean_loss, measure, paired, summary, summary_of_steps


def rows(*losses: tuple[int, float | None]) -> list[dict[str, float | None]]:
    return [{"step": step, "loss": loss} for step, loss in losses]


def test_losses() -> None:
    found = rows((10, 4.0), (50, 2.0), (95, 1.0), (100, 0.5))
    assert final_loss(found) == 0.75  # steps above 90
    assert mean_loss(found) == pytest.approx((10 * 4 + 40 * 2 + 45 * 1 + 5 * 0.5) / 100)
    assert final_loss([]) is None and mean_loss(rows((1, float("nan")), (2, None))) is None
    assert final_loss(rows((0, 4.0))) is None and mean_loss(rows((0, 4.0))) is None


@pytest.mark.parametrize(("zeros", "ended"), [(0.9995, "died"), (0.5, "diverged")])
def test_dead_and_diverged_are_told_apart(zeros: float, ended: str, tmp_path: Path) -> None:
    found = RunContents(
        Run(tmp_path),
        recipe=load_recipe("quickstart"),
        starts=[{"ended": {"exit_code": 6}}],
        train_rows=[{"step": 5, "loss": 2.0, "zero_share": 0.9999}, {"step": 10, "loss": None, "zero_share": zeros}],
    )
    measured = measure(found, seed=1, errors=[])
    assert (measured["ended"], measured["died_at"], measured["final_error_interval"]) == (ended, 10, None)


def test_the_interval_of_an_error_is_that_of_its_images(tmp_path: Path) -> None:
    rows = [{"step": step, "top1_error": error, "num_images": 400, "subset": "all"} for step, error in ((1, 50.0), (2, 20.0))]
    low, high = measure(RunContents(Run(tmp_path), evaluate_rows=rows), seed=1, errors=[])["final_error_interval"] or (0, 0)
    assert low == pytest.approx(20.0 - 3.92, abs=0.3) and high == pytest.approx(20.0 + 3.92, abs=0.3)  # 1.96 standard errors
    for images in ({}, {"num_images": None}, {"num_images": 0}):
        unknown = [{"step": 1, "top1_error": 50.0, **images}]
        measured = measure(RunContents(Run(tmp_path), evaluate_rows=unknown), seed=1, errors=[])
        assert (measured["final_error"], measured["final_error_interval"]) == (50.0, None)


def test_summaries() -> None:
    assert summary([3.0, None, 1.0, 2.0]) == {"n": 3, "median": 2.0, "low": 1.0, "high": 3.0}
    assert summary([None])["median"] is None
    # Two of three reached it: the median is known. One of three: it is not.
    assert summary_of_steps([100, None, 300]) == {"n": 2, "median": 300, "low": 100, "high": 300}
    assert summary_of_steps([100, None, None]) == {"n": 1, "median": None, "low": 100, "high": 100}


def test_differences_are_of_equal_seeds() -> None:
    found = paired({1: 5.0, 2: 6.0, 3: None, 4: 1.0}, {1: 3.0, 2: 5.0, 3: 1.0}, ("a", "b"), "final_error")
    assert (found["n"], found["trained"], found["mean"], found["low"], found["high"]) == (2, 3, -1.5, -2.0, -1.0)
    assert paired({}, {1: 3.0}, ("a", "b"), "x")["mean"] is None


def test_few_seeds_have_no_interval() -> None:
    zeros = dict.fromkeys(range(400), 0.0)
    assert paired(zeros, {seed: float(seed) for seed in range(5)}, ("a", "b"), "x")["interval"] is None
    low, high = paired(zeros, {seed: float(seed) for seed in range(6)}, ("a", "b"), "x")["interval"] or (0, 0)
    assert 0.0 < low < 2.5 < high < 5.0
    large = paired(zeros, {seed: float(seed % 2) for seed in range(400)}, ("a", "b"), "x")
    assert large["interval"] == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.004)  # 1.96 standard errors of 0.025


def test_the_value_with_the_lowest_median_is_chosen() -> None:
    losses = {
        "a": {0.1: [1.0, 1.1, 9.0], 0.3: [1.2, 1.2, 1.2]},
        "b": {0.1: [1.5], 0.3: [None]},
        "c": {0.3: [1.0], 0.1: [1.0]},
        "d": {0.3: [None], 0.1: [None]},
    }
    assert choose(losses) == {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1}
