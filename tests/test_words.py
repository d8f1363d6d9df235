"""Numbers as people read them, in the outputs that print errors."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inceptionctl.cli.evaluate import _print_evaluation, _print_matrix
from inceptionctl.evaluate.classwise import macro_average, per_class
from inceptionctl.evaluate.metrics import figures
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.startup_log import farewell
from inceptionctl.words import counted, counted_epochs, percent

BEST = {"step": 4, "top1_error": 9.5, "top5_error": 0.0, "loss": 1.0, "subset": "non-blacklisted"}


def test_one_is_no_plural() -> None:
    assert [counted(number, "image") for number in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]
    assert counted(1, "class", "classes") == "1 class" and counted(2, "class", "classes") == "2 classes"
    assert [counted_epochs(number) for number in (1.0, 2.5)] == ["1 epoch", "2.5 epochs"]


def test_rates_are_the_numbers_that_they_are() -> None:
    assert percent(19, 200) == 9.5 != 100.0 * (1.0 - 181 / 200)
    probabilities = torch.tensor([[0.9, 0.1]] * 200)
    assert figures(probabilities, torch.tensor([1] * 19 + [0] * 181))["top1_error"] == 9.5


@pytest.mark.parametrize(("num_classes", "shown"), [(5, False), (6, True)])
def test_top5_is_told_of_more_than_five_classes(num_classes: int, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    classes = [f"c{i}" for i in range(num_classes)]
    result: Any = {
        **{"checkpoint": "x", "weights": "ema", "step": 1, "num_images": 1, "data_root": "d", "subset": "all"},
        **{"preparation": "p", "loss": 1.0, "calibration_error": 1.0, "images_per_second": 1.0, "precision": "fp32"},
        **{"seconds": 1.0, "top1_error": 9.5, "top5_error": 2.5, "classes": classes, "confusion": []},
        **{"top1_error_interval": [8.0, 11.0], "top5_error_interval": [1.0, 4.0]},
        **{"real_top1_error": 7.5, "real_num_images": 1},
        "per_class": per_class(np.zeros((0, num_classes), np.float32), np.zeros(0, np.int64), classes),
        "thresholds": None,
    }
    result["macro_average"] = macro_average(result["per_class"])
    result["confusion"] = [[0] * num_classes for _ in classes]
    _print_evaluation(result, None)
    printed = capsys.readouterr().out
    assert "9.50% (95%: 8.00 to 11.00), accuracy 90.50%" in printed
    assert re.search(r"7\.50%, accuracy 92\.50%, of 1 image *\n", printed)
    assert ("top-5 error" in printed) is shown


def test_the_confusion_has_accuracy_beside_error(capsys: pytest.CaptureFixture[str]) -> None:
    per_class = {"cat": {"num_images": 8, "top1_error": 25.0}, "dog": {"num_images": 0, "top1_error": None}}
    matrix = [[6, 2], [0, 0]]
    result: Any = {"classes": ["cat", "dog"], "confusion": matrix, "per_class": per_class}
    _print_matrix(result, matrix)
    rows = [re.findall(r"[\w.%-]+", line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1][-4:] == ["error", "%", "accuracy", "%"]
    assert ["cat", "6", "2", "25.0", "75.0"] in rows and ["dog", "0", "0", "-", "-"] in rows


def test_the_last_line_of_a_training_names_the_images_of_the_best() -> None:
    job = SimpleNamespace(progress=Progress(step=1, epoch=0.5, best=BEST))
    assert farewell(job) == (
        "finished: 1 step, 0.50 epochs; best top-1 error 9.50%, accuracy 90.50% on non-blacklisted images at step 4"
    )
    job.progress.best = BEST | {"subset": "all"}
    assert farewell(job).endswith("best top-1 error 9.50%, accuracy 90.50% at step 4")
