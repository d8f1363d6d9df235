"""The benches that start ranks, each once on a tiny network: the fields of the results, and what is refused. Nothing is timed."""

import json
from pathlib import Path
from typing import Any

import pytest

from inceptionctl.bench.turns import STEPS_WITHOUT_END
from tests.commands import TINY, inceptionctl, refused, sets

SMALL = ("quickstart", *sets("model.width=0.125", "model.input_px=75"), "--micro-batch-size", "2", "--repeats", "1", "--json")


def figures(text: str) -> tuple[dict[str, Any], dict[tuple[str, str], float]]:
    result = json.loads(text)
    return result, {(figure["name"], figure["unit"]): figure["median"] for figure in result["figures"]}


def test_a_step_of_one_rank_beside_a_bare_loop() -> None:
    done = inceptionctl("bench", "step", *SMALL)
    assert done.returncode == 0, done.stderr
    result, found = figures(done.stdout)
    assert (result["bench"], result["ranks"], result["images"], result["device"]) == ("step", 1, 2, "cpu")
    for name in ("inceptionctl", "bare loop"):
        assert found[name, "images/s"] == pytest.approx(2 / found[name, "s/step"])
    assert found["inceptionctl / bare loop", "ratio of s/step"] == pytest.approx(
        found["inceptionctl", "s/step"] / found["bare loop", "s/step"]
    )
    parts = found["optimizer", "s/step"] + found["averages of the weights", "s/step"]
    share = found["optimizer and averages, share of a step", "% of s/step"]
    assert share == pytest.approx(100 * parts / found["inceptionctl", "s/step"])
    # Forward, and twice as much backward; a multiply-add is two.
    work, peak = 6e-9 * result["multiply_adds"], found["matrix product, fp32", "GFLOP/s"]
    name = "bare loop, fp32, contiguous"
    assert found[f"{name}, share of the fp32 product", "% by s"] == pytest.approx(100 * work * found[name, "images/s"] / peak)


def test_a_step_of_two_ranks_beside_ddp_with_live_data(root: Path) -> None:
    rows = sets("train.log_every_steps=1")
    done = inceptionctl("bench", "train", *SMALL, *rows, "--cpu-ranks", "2", "--data", root, "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert str(STEPS_WITHOUT_END) not in done.stderr  # no line of a training that never ends
    result, found = figures(done.stdout)
    assert (result["bench"], result["ranks"], result["images"]) == ("train", 2, 4)
    assert {name for name, unit in found if unit == "images/s"} == {"inceptionctl", "inceptionctl, live data", "torch DDP"}
    assert ("inceptionctl, live data / torch DDP", "ratio of s/step") in found


def test_a_step_compiled_in_the_ways_that_are_named() -> None:
    """The loop as the recipe says, the bare one besides in the others; what is not named is not measured."""
    network = sets("model.name=resnet_18", "model.width=0.125", "model.input_px=32", "train.compile=blocks")
    done = inceptionctl("bench", "step", "quickstart", *network, *SMALL[5:], "--ways", "network,none,blocks")
    assert done.returncode == 0, done.stderr
    result, found = figures(done.stdout)
    assert (result["compile"], result["ways"]) == (["blocks", "default"], ["none", "blocks", "network"])
    names = {name for name, unit in found if unit == "images/s"}
    assert names == {"inceptionctl", "bare loop", "bare loop, not compiled", "bare loop, network compiled"}
    assert {name for name, unit in found if unit == "s/step"} == names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ways", "blocks,fast"), ("no way 'fast'", "network/cuda-graphs")),
        (("--ways", ""), ("names nothing", "--ways bare")),
        (("--ways", "timm,parts", "--cpu-ranks", "2"), ("parts measures one rank alone, not 2", "leave parts out")),
        (("--ways", "network/cuda-graphs"), ("a CPU has no CUDA graphs",)),
    ],
)
def test_ways_that_cannot_be_measured_are_refused(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = inceptionctl("bench", "step", *SMALL, *arguments, CUDA_VISIBLE_DEVICES="")
    refused(result, 2, *words)
    told = json.loads(result.stdout)  # also what a rank has found
    assert told["exit_code"] == 2 and words[0] in told["error"] and told["hint"]


def test_sums_over_two_ranks(tmp_path: Path) -> None:
    done = inceptionctl(
        "bench", "allreduce", "--cpu-ranks", "2", "--largest", "1", "--repeats", "2", "--output", tmp_path / "a.json"
    )
    assert done.returncode == 0, done.stderr
    result, found = figures((tmp_path / "a.json").read_text())
    assert (result["backend"], result["ranks"], result["bus_factor"]) == ("gloo", 2, 1.0)
    # Sums so small may take as long whatever their size, on a machine that does other things too.
    assert result["alpha_s"] >= 0.0 and (result["bytes_per_s"] is None or result["bytes_per_s"] > 0.0)
    assert [name for name, unit in found if unit == "s"] == ["4 KiB", "16 KiB", "64 KiB", "256 KiB", "1 MiB"]
    refused(inceptionctl("bench", "allreduce"), 2, "nobody to sum with")


@pytest.mark.slow
def test_a_start_phase_by_phase(root: Path) -> None:
    settings = sets(*TINY, f"data.root={root}", "model.num_classes=3")
    done = inceptionctl("bench", "start", "quickstart", *settings, "--ranks", "1", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    _, found = figures(done.stdout)
    phases = [value for (name, unit), value in found.items() if name.startswith("1 rank: ") and unit == "s"]
    assert len(phases) == 10 and all(value >= 0.0 for value in phases)
    assert found["1 rank: all", "s"] == pytest.approx(sum(phases) - found["1 rank: all", "s"], abs=0.01)
    assert found["inceptionctl --help", "s"] > 0.0
    refused(inceptionctl("bench", "start", *sets(f"data.root={root / 'gone'}")), 3, "gone")
    refused(inceptionctl("bench", "start", "--ranks", "two"), 2, "--ranks two")
    refused(inceptionctl("bench", "start", "--ranks", "3"), 2, "global batch of 64", "3 ranks")
