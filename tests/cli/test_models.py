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
    first = next(item for item in listed if item["name"] == "inception_v4")
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
    assert "unknown model 'inceptoin_v4'" in result.stderr
    assert "hint: did you mean `inception_v4`?" in result.stderr
    assert "inception_v4_tf_slim" in run("show", "zzz").stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--input-px", "74", "input_px 74 is too small for inception_v4: at least 75"),
        ("--width", "9", "9.0: input should be less than or equal to 4"),
        ("--width", "0", "0.0: input should be greater than 0"),
        ("--num-classes", "1", "1: input should be greater than or equal to 2"),
    ],
)
def test_impossible_options_are_worded(option: str, value: str, words: str) -> None:
    result = run("show", "inception_v4", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option}: {words}" in result.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "words", "hint"),
    [
        (
            "resnet_50",
            ("--residual-scale", "0.1"),
            "--residual-scale: resnet_50 has no residuals to scale",
            "inception_resnet_v1",
        ),
        ("inception_resnet_v1", ("--residual-scale", "0.1,x"), "--residual-scale: '0.1,x' is neither a number", ""),
        ("inception_resnet_v1", ("--residual-scale", "0.1,0.2"), "--residual-scale: [0.1, 0.2] is neither a number", ""),
        ("inception_resnet_v1", ("--residual-scale", "0"), "--residual-scale: 0.0 is neither a number in (0, 1]", ""),
        ("inception_resnet_v1", ("--aux-head",), "--aux-head: inception_resnet_v1 has no auxiliary head", "inception_v3"),
        ("inception_v3", ("--input-px", "106"), "aux_head of inception_v3 needs input_px of at least 107, got 106", "false"),
        ("inception_v3", ("--residual-unit", "original"), "--residual-unit: inception_v3 has no residual units", "resnet_18"),
        ("resnet_18", ("--residual-unit", "wide"), "--residual-unit: 'wide' is not a choice", "'original' or 'bottleneck'"),
        ("resnet_18", ("--input-px", "31"), "--input-px: 31: input should be greater than or equal to 32", ""),
    ],
)
def test_options_of_other_networks_are_worded(name: str, arguments: tuple[str, ...], words: str, hint: str) -> None:
    result = run("show", name, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr and hint in result.stderr


def test_parameters_with_and_without_the_auxiliary_head() -> None:
    own, without = shown("inception_v3"), shown("inception_v3", "--no-aux-head")
    assert (own["parameters"], own["aux_head_parameters"], own["aux_head"]) == (23_834_568, 3_326_696, True)
    assert own["parameters"] + own["aux_head_parameters"] == 27_161_264
    assert (without["parameters"], without["aux_head_parameters"], without["aux_head"]) == (23_834_568, None, False)
    assert without["endpoints"] == own["endpoints"]
    assert shown("inception_v4", "--aux-head")["aux_head_parameters"] == 3_359_464
    assert shown("resnet_18")["aux_head"] is None


def test_options_of_the_families_are_shown() -> None:
    assert shown("inception_resnet_v1")["residual_scale"] == [0.17, 0.10, 0.20]
    assert shown("inception_resnet_v1", "--residual-scale", "1")["residual_scale"] == 1.0
    assert shown("inception_resnet_v2", "--residual-scale", "0.1,0.2,0.3")["residual_scale"] == [0.1, 0.2, 0.3]
    basic, bottleneck = shown("resnet_34"), shown("resnet_34", "--residual-unit", "bottleneck")
    assert (basic["residual_unit"], bottleneck["residual_unit"]) == ("original", "bottleneck")
    assert (basic["parameters"], bottleneck["parameters"]) == (21_797_672, 25_557_032)  # the units of 34 are those of 50


def test_names_are_not_broken_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", "80")
    printed = run("list").stdout
    assert all(name in printed for name in MODELS)


def test_a_network_whose_errors_the_paper_does_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    line = next(line for line in run("list").stdout.splitlines() if line.startswith("resnet_152 "))
    assert [cell.strip() for cell in line.split("│")][1:] == ["224", "60,192,808", "-", "-", "arXiv 1512.03385"]
    assert shown("resnet_152")["paper_top1_error_percent"] is None
    assert "None" not in run("show", "resnet_152").stdout


@pytest.mark.parametrize("name", ["bn_inception", "inception_v3", "inception_resnet_v1", "resnet_18"])
def test_smallest_input_is_shown(name: str) -> None:
    spec = MODELS[name]
    without = ["--no-aux-head"] if spec.aux_head is not None else []
    about = shown(name, "--input-px", str(spec.min_input_px), *without)
    assert about["input_px"] == about["min_input_px"] == spec.min_input_px
