"""`bench lr`: what a curve suggests, when it has diverged, and the command on two ranks and one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.bench.lr_range import Divergence, rates, smoothed, suggest
from tests.commands import TINY, inceptionctl, refused, rows, sets


def curve(tried: list[float], falls_at: float, explodes_at: float) -> list[float]:
    """A loss from 2 to 1, steepest over the logarithm at one rate, which explodes at another."""
    return [1.0 + 1.0 / (1.0 + (rate / falls_at) ** 2) + (rate / explodes_at) ** 4 for rate in tried]


def test_the_steepest_descent_is_found_where_it_is() -> None:
    tried = rates(1e-6, 10.0, 200)
    assert tried[0] == pytest.approx(1e-6) and tried[-1] == pytest.approx(10.0)
    assert np.ptp(np.diff(np.log(tried))) < 1e-9
    losses = curve(tried, 3e-3, 1.0)
    end = next(k for k in range(len(tried)) if losses[k] > 8.0)
    found = suggest(tried[: end + 1], losses[: end + 1], True)
    assert found.steepest_lr == pytest.approx(3e-3, rel=0.1)
    assert found.tenth_lr == pytest.approx(tried[end] / 10.0)
    # Batches differ by more than the loss falls between two of them.
    for seed in range(5):
        noisy = losses[: end + 1] + np.random.default_rng(seed).normal(0.0, 0.1, end + 1)
        steepest = suggest(tried[: end + 1], noisy.tolist(), True).steepest_lr
        assert steepest is not None and 1e-3 < steepest < 1e-2, seed


def test_what_does_not_fall_or_diverge_suggests_nothing() -> None:
    tried = rates(1e-3, 1.0, 20)
    assert suggest(tried, [1.0 + k for k in range(20)], True).steepest_lr is None
    falling = suggest(tried, [3.0 - 0.1 * k for k in range(20)], False)
    assert falling.tenth_lr is None and falling.steepest_lr is not None
    assert suggest(tried[:1], [], True).steepest_lr is None


def test_four_times_the_best_is_a_divergence() -> None:
    watch = Divergence()
    assert not any(watch.has_come(loss) for loss in (8.0, 4.0, 2.0, *[1.0] * 60, *[3.9] * 60))
    assert any(watch.has_come(4.2) for _ in range(60))
    assert Divergence().has_come(math.nan) and Divergence().has_come(math.inf)
    assert smoothed([2.0] * 30).tolist() == pytest.approx([2.0] * 30) and smoothed([]).tolist() == []
    last = smoothed([1.0] * 99 + [1e9])
    assert last[80] == pytest.approx(1.0, abs=0.01) and last[-1] < 4.0


@pytest.fixture(scope="module")
def two_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):
        for name, base in (("dark", 40), ("light", 210)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (base + rng.integers(-30, 31, (80, 80, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def tiny(root: Path) -> list[str]:
    network = ("model.name=resnet_18", "model.num_classes=2", "optim.name=sgd", "train.micro_batch_size=4")
    return sets(*TINY, *network, f"data.root={root}")


def test_the_command_trains_until_it_diverges_and_leaves_nothing(two_colours: Path, tmp_path: Path) -> None:
    words = ("bench", "lr", "quickstart", *tiny(two_colours), "--steps", "30", "--from", "1e-5", "--to", "1e6", "--json")
    done = inceptionctl(*words, "--cpu-ranks", "2", "--output", tmp_path / "lr.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["ranks"], found["global_batch_size"]) == ("lr", 2, 8)
    assert found["rates"] == pytest.approx(rates(1e-5, 1e6, 30)[: len(found["rates"])])
    assert len(found["losses"]) == len(found["rates"]) < 30 and found["diverged_at"] == found["rates"][-1]
    assert found["tenth_lr"] == pytest.approx(0.1 * found["diverged_at"])
    assert min(loss for loss in found["losses"] if loss is not None) < found["losses"][0]
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.format == "PNG" and picture.width > 500
    assert [file.name for file in tmp_path.iterdir()] == ["lr.png"]
    # Its first two steps are those of a training at the same rates: the rate of the first shows in the loss of the second.
    schedule = (f"schedule.base_lr={found['rates'][0]}", "schedule.name=constant", "train.max_steps=2")
    run = tmp_path / "run"
    done = inceptionctl("train", "quickstart", *tiny(two_colours), *sets(*schedule), "--cpu-ranks", "2", "--output", run)
    assert done.returncode == 0, done.stderr
    assert [row["loss"] for row in rows(run)] == pytest.approx(found["losses"][:2], rel=1e-5)


def test_what_cannot_be_tested(two_colours: Path, tmp_path: Path) -> None:
    words = ("bench", "lr", "quickstart", *tiny(two_colours))
    refused(inceptionctl(*words, "--from", "1", "--to", "0.1"), 2, "--from 1 --to 0.1")
    refused(inceptionctl(*words, "--from", "nan"), 2, "the rate must rise")
    refused(inceptionctl(*words, "--output", tmp_path / "lr.txt"), 2, "unknown format")
    refused(inceptionctl("bench", "lr", "quickstart", *sets("data.root=nowhere", "model.num_classes=2")), 3, "nowhere")
