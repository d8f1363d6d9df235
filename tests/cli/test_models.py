import json
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.models import MODELS


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["models", *arguments])


def shown(*arguments: str) -> dict[str, Any]:
    result = run("show", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_list_names_every_network() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert [item["name"] for item in listed] == list(MODELS)
    first = listed[0]
    assert (first["name"], first["input_px"], first["parameters"]) == ("inception_v4", 299, 42_679_816)
    assert (first["paper_top1_error_percent"], first["paper_top5_error_percent"]) == (20.0, 5.0)
    assert "1602.07261" in first["source"]


def test_list_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("list")
    line = next(line for line in result.stdout.splitlines() if line.startswith("inception_v4 "))
    assert [cell.strip() for cell in line.split("│")][1:5] == ["299", "42,679,816", "20.0", "5.0"]


def test_show_has_the_papers_numbers() -> None:
    about = shown("inception_v4")
    assert (about["input_px"], about["num_classes"], about["width"]) == (299, 1000, 1.0)
    assert about["parameters"] == 42_679_816
    assert about["multiply_adds"] == sum(stage["multiply_adds"] for stage in about["endpoints"])
    shapes = {stage["name"]: stage["shape"] for stage in about["endpoints"]}
    assert shapes["blocks_a"] == [35, 35, 384]  # Figure 9
    assert shapes["reduction_a"] == [17, 17, 1024]
    assert shapes["blocks_c"] == [8, 8, 1536]


def test_options_reach_the_network() -> None:
    small = shown("inception_v4", "--num-classes", "7", "--width", "0.25", "--input-px", "107")
    assert (small["num_classes"], small["width"], small["input_px"]) == (7, 0.25, 107)
    assert small["endpoints"][-1]["shape"] == [1, 1, 7]
    assert small["parameters"] < 42_679_816 / 10
    # Nothing but the number of pixels changes the cost alone.
    smaller = shown("inception_v4", "--num-classes", "7", "--width", "0.25", "--input-px", "75")
    assert smaller["parameters"] == small["parameters"]
    assert smaller["multiply_adds"] < small["multiply_adds"]


def test_show_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = run("show", "inception_v4")
    assert "42,679,816" in result.stdout
    assert "12,253,974,624" in result.stdout
    assert "17 x 17 x 1024" in result.stdout
    assert "Fig. 5" in result.stdout


def test_unknown_network_names_the_nearest() -> None:
    result = run("show", "inceptoin_v4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no network 'inceptoin_v4'" in result.stderr
    assert "hint: did you mean `inception_v4`?" in result.stderr
    assert "inception_v4_tf_slim" in run("show", "zzz").stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--input-px", "74", "input_px 74 is too small for inception_v4: at least 75"),
        ("--width", "9", "width: 9.0: input should be less than or equal to 4"),
        ("--width", "0", "width: 0.0: input should be greater than 0"),
        ("--num-classes", "1", "num_classes: 1: input should be greater than or equal to 2"),
    ],
)
def test_impossible_options_are_worded(option: str, value: str, words: str) -> None:
    result = run("show", "inception_v4", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option}: {words}" in result.stderr


def test_smallest_input_of_every_network_is_shown() -> None:
    for name, spec in MODELS.items():
        assert shown(name, "--input-px", str(spec.min_input_px))["input_px"] == spec.min_input_px
