"""Ensembles of saved probabilities against a plain mean, and what does not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.members import combine
from inceptionctl.evaluate.records import Record
from inceptionctl.run import Run
from tests.commands import inceptionctl

CLASSES = list("abcdefg")


def member(seed: int, count: int = 50) -> Record:
    torch.manual_seed(99)
    labels = torch.randint(7, (count,))
    torch.manual_seed(seed)
    logits = torch.randn(count, 7) + 2 * torch.nn.functional.one_hot(labels, 7)
    images = [f"val/{i}.jpg" for i in range(count)]
    return Record(images, labels, logits.softmax(1), {"protocol": "144crop", "classes": CLASSES})


def test_the_mean_by_hand() -> None:
    records = [member(seed) for seed in range(3)]
    probabilities, result = combine(records, "xyz", [2, 1, 1])
    for i in range(50):
        for k in range(7):
            parts = [record.probabilities[i, k].item() for record in records]
            assert probabilities[i, k].item() == pytest.approx(0.5 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2])
    wrong = sum(row.argmax().item() != label for row, label in zip(probabilities, records[0].labels.tolist(), strict=True))
    assert result["top1_error"] == pytest.approx(2.0 * wrong)
    names = [record.probabilities.argmax(1).tolist() for record in records]
    differ = sum(one != other for one, other in zip(names[0], names[2], strict=True))
    assert result["differ"][1] == {"members": [0, 2], "percent": pytest.approx(2.0 * differ)} and differ > 0
    assert result["agree"] == pytest.approx(2.0 * sum(len(set(three)) == 1 for three in zip(*names, strict=True)))
    assert [one["weight"] for one in result["members"]] == [0.5, 0.25, 0.25]
    assert result["members"][1]["top1_error"] == pytest.approx(
        2.0 * sum(one != label for one, label in zip(names[1], records[0].labels.tolist(), strict=True))
    )
    own = [row.argmax().item() == 3 for row, label in zip(probabilities, records[0].labels, strict=True) if label == 3]
    assert result["per_class"]["d"]["recall"] == pytest.approx(sum(own) / len(own)) and result["thresholds"] is None
    recalls = [one["recall"] for one in result["per_class"].values()]
    assert result["macro_average"]["recall"] == pytest.approx(sum(recalls) / 7) and min(recalls) < max(recalls)


def test_one_twice_is_itself() -> None:
    probabilities, result = combine([member(1), member(1)], "xy")
    assert torch.equal(probabilities, member(1).probabilities) and result["agree"] == 100.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [f"val/{i + 1}.jpg" for i in range(50)]}, "different images: 50 and 50; only one has val/0.jpg"),
        ({"images": [f"val/{i}.jpg" for i in reversed(range(50))]}, "their order differs"),
        ({"labels": torch.zeros(50, dtype=torch.long)}, "different labels"),
        ({"about": {"protocol": "single", "classes": CLASSES}}, "different protocols: 144crop and single"),
        ({"about": {"protocol": "144crop", "classes": CLASSES[::-1]}}, "different classes"),
    ],
)
def test_what_does_not_belong_together(change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        combine([member(0), replace(member(1), **change)], "xy")


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]])
def test_weights_that_cannot_be(weights: list[float]) -> None:
    with pytest.raises(RecipeError):
        combine([member(0), member(1)], "xy", weights)


def test_the_command(run: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    for words in (["--precision", "fp32"], ["--precision", "fp32", "--weights", "raw", "--output", str(raw)]):
        answer = CliRunner().invoke(app, ["evaluate", str(run.path), *words])
        assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, ["ensemble", str(run.path), str(raw), "--output", str(tmp_path / "both.json")])
    assert answer.exit_code == 0, answer.output
    assert "ensemble" in answer.stdout and "all members agree" in answer.stdout
    assert "macro average of the ensemble: precision 0." in answer.stdout
    told = json.loads((tmp_path / "both.json").read_text())
    assert [one["name"] for one in told["members"]] == [str(run.path), str(raw)]
    assert told["members"][0]["top1_error"] != told["members"][1]["top1_error"]


def test_errors_of_the_command(run: Run, tmp_path: Path) -> None:
    missing = inceptionctl("ensemble", run.path, run.path, "--protocol", "dense", "--saved-only")
    assert missing.returncode == 5 and "evaluate" in missing.stderr and "--protocol dense" in missing.stderr
    absent = inceptionctl("ensemble", tmp_path / "a.json", tmp_path / "b.json")
    assert absent.returncode == 3 and "a.json" in absent.stderr
    alone = inceptionctl("ensemble", tmp_path / "a.json")
    assert alone.returncode in (2, 3) and "Traceback" not in alone.stderr
