"""Figures from probabilities against straight loops."""

import math

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import binomtest

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import DataError
from inceptionctl.evaluate.metrics import bootstrap_interval, calibration, figures
from inceptionctl.evaluate.records import read_record, write_record


def sample(count: int = 400, classes: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(classes, (count,))
    logits = torch.randn(count, classes) + 1.5 * torch.nn.functional.one_hot(labels, classes)
    return logits.softmax(1), labels


def test_figures_by_hand() -> None:
    probabilities, labels = sample()
    found = figures(probabilities, labels)
    ranks = [
        sorted(row, reverse=True).index(row[label]) for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
    ]
    assert found["top1_error"] == pytest.approx(100 * sum(rank > 0 for rank in ranks) / 400)
    assert found["top5_error"] == pytest.approx(100 * sum(rank > 4 for rank in ranks) / 400)
    assert 0 < found["top5_error"] < found["top1_error"]
    losses = [-math.log(row[label]) for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)]
    assert found["loss"] == pytest.approx(sum(losses) / 400)


@pytest.mark.parametrize(("classes", "says"), [(2, False), (5, False), (6, True)])
def test_a_top5_error_that_says_nothing_is_none(classes: int, says: bool) -> None:
    found = figures(*sample(classes=classes))
    assert [found[key] is not None for key in ("top1_error", "top5_error", "top1_error_interval", "top5_error_interval")] == [
        True,
        says,
        True,
        says,
    ]


def test_calibration_by_hand() -> None:
    probabilities, labels = sample()
    confidence, predicted = probabilities.max(1)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for value, right in zip(confidence.tolist(), (predicted == labels).tolist(), strict=True):
        bins.setdefault(min(14, math.ceil(value * 15) - 1), []).append((value, right))
    expected = sum(abs(sum(value for value, _ in held) - sum(right for _, right in held)) for held in bins.values()) / 4
    found, error = calibration(confidence, predicted == labels)
    assert error == pytest.approx(expected) and error > 1.0
    assert [one["num_images"] for one in found] == [len(bins[k]) for k in sorted(bins)]
    assert calibration(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == (
        [{"num_images": 1, "confidence": 0.0, "accuracy": 0.0}, {"num_images": 1, "confidence": 1.0, "accuracy": 1.0}],
        0.0,
    )


def test_the_interval_is_that_of_resampled_images() -> None:
    correct = np.arange(418) < 300
    rng = np.random.default_rng(7)
    errors = [100 * (1 - rng.choice(correct, len(correct)).mean()) for _ in range(4000)]
    assert bootstrap_interval(300, 418) == pytest.approx(np.quantile(errors, [0.025, 0.975]).tolist(), abs=0.4)


@pytest.mark.parametrize("right", [0, 418])
def test_the_interval_without_errors_or_with_nothing_else_is_the_exact_one(right: int) -> None:
    exact = binomtest(418 - right, 418).proportion_ci(0.95, method="exact")
    assert bootstrap_interval(right, 418) == pytest.approx([100 * exact.low, 100 * exact.high], abs=1e-9)


def test_pandas_opens_the_record(data, tmp_path) -> None:
    images = open_split(data, "val")
    torch.manual_seed(0)
    probabilities = torch.randn(len(images), 6).softmax(1)
    write_record(tmp_path / "a.parquet", images, probabilities.numpy(), {"protocol": "single"})
    table = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(table.columns) == ["image", "label", "class", "predicted", "confidence", "probabilities"]
    assert np.array_equal(np.stack(table["probabilities"].to_list()), probabilities.numpy())
    assert table["image"][0] == "val/apple/0.jpg" and table["class"][0] == "apple"
    assert (table["predicted"] == [images.classes[i] for i in probabilities.argmax(1)]).all()
    record = read_record(tmp_path / "a.parquet")
    assert torch.equal(record.probabilities, probabilities) and record.about == {"protocol": "single"}
    assert record.labels.tolist() == images.labels.tolist()


@pytest.mark.parametrize("content", [b"", b"PAR1 no", b"{}"])
def test_other_files_are_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match="is not a file of probabilities"):
        read_record(tmp_path / "a.parquet")
