"""`inceptionctl plan` as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import InceptionctlError


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", "inception_v4", *arguments])


def planned(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_json_has_everything_that_the_table_says() -> None:
    plan = planned("--images-per-second", "500", "--gpus", "20,8,256", "--price", "2")
    assert [point["gpus"] for point in plan["points"]] == [8, 20, 256]
    first, second, third = plan["points"]
    assert first["nodes"] == 1 and second["nodes"] == 3
    assert first["images_per_second"] > 7.5 * 500 and second["efficiency"] < first["efficiency"] < 1
    assert second["cost"] == pytest.approx(2 * second["gpu_hours"])
    assert second["micro_batch_size"] == 32 and second["steps"] == 320_292
    assert "256 ranks" in third["problem"] and "images_per_second" not in third
    assert plan["gradient_bytes"] == 4 * 42_679_816 and plan["estimate"] is False
    assert plan["remarks"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run("--images-per-second", "500", "--price", "2.5", "--scale-batch")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    assert [row[0] for row in rows] == ["8", "20", "64", "256", "1,024"]
    assert {row[-1] for row in rows} <= {"compute", "averaging"}


def test_links_cards_and_cores_reach_the_prediction(tmp_path: Path) -> None:
    def rate(*more: str) -> float:
        # A network that is quickly counted.
        small = ("--set", "model.name=resnet_18", "--images-per-second", "2000", "--gpus", "64")
        return float(planned(*small, *more)["points"][0]["images_per_second"])

    base = rate()
    assert rate("--interconnect", "ethernet-10") < rate("--interconnect", "ib-hdr") < base < rate("--cards-per-node", "8")
    assert rate("--link-bandwidth", "46") == pytest.approx(base)
    assert rate("--inside", "pcie3", "--cards-per-node", "8") < rate("--cards-per-node", "8")
    assert rate("--gpus-per-node", "64") > base
    allreduce = tmp_path / "allreduce.json"
    allreduce.write_text(json.dumps({"figures": [], "ranks": 2, "alpha_s": 28e-6, "bytes_per_s": 46e9}))
    assert rate("--allreduce", str(allreduce)) == pytest.approx(base)
    assert rate("--file-system-rate", "0.11") == pytest.approx(1000)
    assert rate("--file-system-rate", "0.11", "--image-bytes", "55000") == pytest.approx(2000)
    bench = tmp_path / "data.json"
    bench.write_text(json.dumps({"figures": [{"name": "all", "unit": "images/CPU s", "median": 10.0}]}))
    assert rate("--data", str(bench), "--cores-per-gpu", "5") == pytest.approx(64 * 50)


def test_a_step_from_files(tmp_path: Path) -> None:
    files = []
    for images, rate in ((32, 400.0), (10, 200.0)):
        path = tmp_path / f"{images}.json"
        path.write_text(json.dumps({"images": images, "figures": [{"name": "step", "unit": "images/s", "median": rate}]}))
        files += ["--step", str(path)]
    plan = planned(*files, "--gpus", "20,64")
    assert [point["compute_seconds"] for point in plan["points"]] == pytest.approx([32 / 400, 10 / 200])
    assert len(plan["measured"]) == 2


def test_an_estimate_is_labelled() -> None:
    plan = planned("--peak-tflops", "989", "--utilisation", "0.3", "--gpus", "8")
    assert plan["estimate"] is True and plan["measured"][0].startswith("ESTIMATE, nothing measured")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["the speed of one GPU is not known", "--images-per-second"]),
        (["--images-per-second", "500", "--interconnect", "wifi"], ["nothing is known of 'wifi'", "ib-ndr", "ethernet-100"]),
        (["--images-per-second", "500", "--inside", "usb"], ["nothing is known of 'usb'", "nvlink4"]),
        (["--images-per-second", "-5"], ["--images-per-second -5 is not a positive number"]),
        (["--images-per-second", "500", "--gpus", "8,many"], ["--gpus 8,many", "--gpus 8,20,64"]),
        (["--images-per-second", "500", "--gpus", "0"], ["--gpus 0"]),
        (["--images-per-second", "500", "--gpus", ","], ["--gpus ,"]),
        (["--images-per-second", "500", "--gpus", "256,1024"], ["divisible by any of these numbers"]),
        (["--images-per-second", "500", "--step-seconds", "1"], ["given several times"]),
        (["--images-per-second", "500", "--peak-tflops", "1", "--utilisation", "0.3"], ["both measured and estimated"]),
        (["--peak-tflops", "989"], ["takes both --peak-tflops and --utilisation"]),
        (["--peak-tflops", "989", "--utilisation", "30"], ["is more than 1"]),
        (["--images-per-second", "500", "--link-bandwidth", "9", "--allreduce", "a.json"], ["given twice"]),
        (["--step", "none.json"], ["cannot read none.json"]),
        (["--images-per-second", "500", "--data", "none.json"], ["cannot read none.json"]),
    ],
)
def test_wrong_inputs_are_told(arguments: list[str], words: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code in (2, 3), result.output
    assert isinstance(result.exception, SystemExit | InceptionctlError)
    said = " ".join(result.stderr.split())
    assert "hint: " in said and "Traceback" not in said
    for word in words:
        assert word in said, said


STUDY = """\
study: {seeds: [1, 2], tune: {values: [0.01, 0.1], seeds: [0]}}
model: {name: resnet_18, num_classes: 1000}
train: {global_batch_size: 640, micro_batch_size: 32}
data: {root: nowhere}
arms: {a: {}, b: {model: {width: 0.5}}}
"""


def test_a_study_is_the_sum_of_its_trainings(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(STUDY)

    def of(recipe: str, *more: str) -> Any:
        words = ["plan", recipe, "--peak-tflops", "989", "--utilisation", "0.05", "--gpus", "20,256", "--price", "2", *more]
        return CliRunner().invoke(app, words)

    found = json.loads(of(str(file), "--json").stdout)
    each = {name: arm["points"][0]["gpu_hours"] for name, arm in found["arms"].items()}
    assert {name: arm["trainings"] for name, arm in found["arms"].items()} == {"a": 4, "b": 4}  # two of them tune
    assert each["b"] < 0.5 * each["a"]
    first, second = found["sums"]
    assert first["gpu_hours"] == pytest.approx(4 * (each["a"] + each["b"])) and first["cost"] == 2 * first["gpu_hours"]
    assert first["seconds"] == pytest.approx(first["gpu_hours"] * 3600 / 20)
    assert (second["gpus"], second["gpu_hours"], second["cost"]) == (256, None, None)  # 640 images have no 256 equal shares
    table = of(str(file)).stdout
    assert "all" in table and f"{first['cost']:,.0f}" in table
    # A measured speed is that of one network.
    refused = CliRunner().invoke(app, ["plan", str(file), "--images-per-second", "500"])
    assert refused.exit_code == 2 and "are 2 networks" in refused.stderr
    one = ["plan", str(file), "--images-per-second", "500", "--gpus", "20", "--set", "arms.b.model.width=1", "--json"]
    assert CliRunner().invoke(app, one).exit_code == 0
