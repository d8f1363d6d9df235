"""Reading what `inceptionctl bench` has written, and fitting it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inceptionctl.bench.figures import Figure
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.scaling.collectives import Cluster, ring_seconds
from inceptionctl.scaling.measured import Rate, estimated_rate, fit_compute, given_rates, read_link, read_loader_rate, read_rate


def bench(path: Path, figures: Sequence[Figure], **about: Any) -> Path:
    """A file as `bench --output` writes it."""
    path.write_text(json.dumps({"bench": "step", **about, "figures": [figure.to_json() for figure in figures]}))
    return path


def test_the_only_rate_of_a_file_with_its_images(tmp_path: Path) -> None:
    figures = [Figure("step", "images/s", [90.0, 110.0, 100.0]), Figure("step", "ms", [320.0])]
    rate = read_rate(bench(tmp_path / "step.json", figures, images=64), None, 32)
    assert (rate.per_second, rate.images, rate.seconds) == (100.0, 64, 0.64)
    assert "step.json" in rate.source and "64 images" in rate.source
    assert read_rate(bench(tmp_path / "other.json", figures), None, 32).images == 32


def test_of_several_rates_one_must_be_named(tmp_path: Path) -> None:
    path = bench(tmp_path / "step.json", [Figure("eager", "images/s", [50.0]), Figure("compiled", "images/s", [80.0])])
    with pytest.raises(DataError) as caught:
        read_rate(path, None, 32)
    assert "'eager', 'compiled'" in str(caught.value)
    assert read_rate(path, "compiled", 32).per_second == 80.0
    with pytest.raises(DataError, match="no figure neither"):
        read_rate(path, "neither", 32)


def test_the_loops_own_rate_comes_first_and_only_of_one_rank(tmp_path: Path) -> None:
    figures = [Figure("bare loop", "images/s", [55.0]), Figure("inceptionctl", "images/s", [50.0])]
    assert read_rate(bench(tmp_path / "one.json", figures, ranks=1), None, 32).per_second == 50.0
    with pytest.raises(DataError, match="measured on 2 ranks"):
        read_rate(bench(tmp_path / "two.json", figures, ranks=2), None, 32)


def test_a_measured_link_gives_back_the_times_that_made_it(tmp_path: Path) -> None:
    link = read_link(bench(tmp_path / "allreduce.json", [], ranks=4, alpha_s=3e-4, bytes_per_s=1.5e9))
    assert ring_seconds(1e6, Cluster(4, 1, link, link)) == pytest.approx(3e-4 + 1e6 / 1.5e9)
    for about in (
        {},
        {"ranks": 1, "alpha_s": 0.0, "bytes_per_s": 1e9},
        {"ranks": 2, "alpha_s": 0.0},
        {"ranks": 2, "alpha_s": -1.0},
    ):
        with pytest.raises(DataError, match=r"none\.json"):
            read_link(bench(tmp_path / "none.json", [], **about))
    with pytest.raises(DataError, match="no longer for more bytes"):
        read_link(bench(tmp_path / "none.json", [], ranks=2, alpha_s=1e-3, bytes_per_s=None))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"figures": [1]}',
        '{"figures": [{"name": "a"}]}',
        '{"figures": {}}',
        '{"figures": [{"name": [], "unit": "images/s", "median": 1}]}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"other\.json"):
        read_rate(path, None, 32)


def test_missing_files_and_impossible_rates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_rate(tmp_path / "none.json", None, 32)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="a rate of"):
            read_rate(bench(tmp_path / "rate.json", [Figure("step", "images/s", [wrong])]), None, 32)
    for images in ("many", -3, 0.5, [8]):
        with pytest.raises(DataError, match="a step of"):
            read_rate(bench(tmp_path / "images.json", [Figure("step", "images/s", [9.0])], images=images), None, 32)


def test_the_loaders_rate_is_that_of_a_core(tmp_path: Path) -> None:
    figures = [
        Figure("read", "images/CPU s", [9.0]),
        Figure("all", "images/s", [700.0]),
        Figure("all", "images/CPU s", [350.0]),
    ]
    assert read_loader_rate(bench(tmp_path / "data.json", figures)) == 350.0
    with pytest.raises(DataError, match="`all`"):
        read_loader_rate(bench(tmp_path / "less.json", figures[:2]))


def test_one_way_to_say_how_fast_a_gpu_is() -> None:
    assert given_rates((), None, 500.0, None, 32)[0].per_second == 500.0
    assert given_rates((), None, None, 0.064, 32)[0].per_second == 500.0
    assert given_rates((), None, None, None, 32) == []
    with pytest.raises(RecipeError, match="several times"):
        given_rates((), None, 500.0, 0.064, 32)


def test_an_estimate_says_so() -> None:
    rate = estimated_rate(12_000_000_000, 989.0, 0.3, 32)
    assert rate.per_second == pytest.approx(989e12 * 0.3 / (12e9 * 2 * 3))
    assert rate.source.startswith("ESTIMATE, nothing measured")


def test_one_measurement_is_taken_in_proportion_and_several_as_a_line() -> None:
    one = fit_compute([Rate(500.0, 32, "")])
    assert (one.seconds(32), one.seconds(16), one.measured_images) == (pytest.approx(0.064), pytest.approx(0.032), 32)
    # P100, Inception-v3: 128 images/s at 32 and 142 at 64 (TensorFlow's benchmarks, 2017).
    two = fit_compute([Rate(142.0, 64, ""), Rate(128.0, 32, "")])
    assert (two.seconds(32), two.seconds(64)) == (pytest.approx(32 / 128), pytest.approx(64 / 142))
    assert two.fixed > 0 and two.measured_images == 32


def test_lines_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="all steps were measured with 32 images"):
        fit_compute([Rate(500.0, 32, ""), Rate(510.0, 32, "")])
    with pytest.raises(RecipeError, match="do not get longer"):
        fit_compute([Rate(100.0, 32, ""), Rate(900.0, 64, "")])
