"""The numbers of an evaluation against a plain computation: Pillow decodes, torch crops, resizes and counts."""

import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.dataset import open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.errors import DataError
from inceptionctl.evaluate.evaluation import Work, check_classes, most_confused, result_of
from inceptionctl.evaluate.resumable import Ranks, answer_all
from inceptionctl.evaluate.subject import subject_of
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.run import Run
from tests.data.resampling import middle_square_by_pillow
from tests.evaluate.making import CLASSES, INPUT_PX, damage

CPU = torch.device("cpu")


def prepared(path: Path) -> torch.Tensor:
    """[3, px, px] in [-1, 1]: the middle 0.875 of each side, squashed to the square without antialiasing."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
    top, left = (math.floor(side * 0.0625) for side in pixels.shape[1:])
    middle = pixels[:, top : pixels.shape[1] - top, left : pixels.shape[2] - left]
    resized = functional.interpolate(middle[None], size=(INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)[0]
    return resized.round() / 127.5 - 1.0


@pytest.fixture(scope="module")
def plain(run: Run, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [24, 6] and labels [24]."""
    files = [(label, path) for label, name in enumerate(CLASSES) for path in sorted((data / "val" / name).iterdir())]
    model = load_trained(run.path, "ema", CPU).model
    with torch.no_grad():
        logits = model(torch.stack([prepared(path) for _, path in files]))
    return logits, torch.tensor([label for label, _ in files])


def evaluated(run: Run, data: Path, batch_size: int = 10, on_progress=lambda done, total: None):
    return evaluation_of(load_trained(run.path, "ema", CPU), data, batch_size, on_progress)


def evaluation_of(trained: Trained, data: Path, batch_size: int = 10, on_progress=lambda done, total: None):
    images = open_split(data, "val")
    check_classes(images, trained.classes, trained.checkpoint)
    work = Work(subject_of(trained, "fp32", CPU), images, None, batch_size, LoaderSettings(num_threads=1, seconds_to_read=60.0))
    with tempfile.TemporaryDirectory() as folder:
        answers = answer_all(work, Path(folder) / "parts", Ranks(), on_progress=on_progress, say=print)
    assert answers is not None
    return result_of(work, answers.probabilities, answers.num_answered, answers.seconds)


@pytest.fixture(scope="module")
def result(run: Run, data: Path):
    return evaluated(run, data)


def test_the_images_differ_for_the_network(plain) -> None:
    logits, _ = plain
    assert (logits.amax(0) - logits.amin(0)).max() > 1.0
    assert len(set(logits.argmax(1).tolist())) >= 3


def test_counts_are_those_of_a_plain_computation(plain, result) -> None:
    logits, labels = plain
    count = len(labels)
    best = logits.topk(5).indices
    wrong = int((best[:, 0] != labels).sum())
    wrong_in_five = int((best != labels[:, None]).all(1).sum())
    assert 0 < wrong_in_five < wrong < count  # else the comparison would tell little
    assert result["num_images"] == count == 24
    assert result["top1_error"] == pytest.approx(100 * wrong / count)
    assert result["top5_error"] == pytest.approx(100 * wrong_in_five / count)
    assert result["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=0.02)
    matrix = np.zeros((6, 6), dtype=int)
    np.add.at(matrix, (labels.numpy(), best[:, 0].numpy()), 1)
    assert result["confusion"] == matrix.tolist()
    for i, name in enumerate(CLASSES):
        figures, right, taken = result["per_class"][name], matrix[i, i], matrix[:, i].sum()
        scores = logits.softmax(1)[:, i]
        above = (scores[labels == i][:, None] > scores[labels != i]).float().mean()
        assert figures == {
            "num_images": 4,
            "top1_error": pytest.approx(100 * (1 - right / 4)),
            "precision": pytest.approx(right / taken if taken else 0.0),
            "recall": pytest.approx(right / 4),
            "f1": pytest.approx(2 * right / (4 + taken)),
            "roc_auc": pytest.approx(above.item(), abs=0.03),
        }
    assert result["macro_average"]["recall"] == pytest.approx(1 - result["top1_error"] / 100)  # classes of equal size
    assert result["thresholds"] is None


def test_batch_size_changes_nothing(run: Run, data: Path, result) -> None:
    alone = evaluated(run, data, batch_size=1)
    assert alone["confusion"] == result["confusion"]
    assert alone["loss"] == pytest.approx(result["loss"], abs=1e-5)


def test_what_the_result_says_of_itself(run: Run, data: Path, result) -> None:
    assert result["protocol"] == "single"
    assert (result["weights"], result["step"], result["precision"]) == ("ema", 10, "fp32")
    assert result["central_fraction"] == 0.875
    assert result["checkpoint"] == str(run.checkpoints / "step-00000010")
    assert result["classes"] == list(CLASSES)
    assert result["images_per_second"] == pytest.approx(24 / result["seconds"])


def in_other_form(trained: Trained, **evaluate: object) -> Trained:
    """As if the recipe had other keys for preparing images."""
    other = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "exif_orientation": False}
    data = trained.recipe.data.model_copy(update=other)
    section = trained.recipe.evaluate.model_copy(update={"keep_aspect": True, "antialias": True, **evaluate})
    return replace(trained, recipe=trained.recipe.model_copy(update={"data": data, "evaluate": section}))


def test_the_recipe_says_how_images_are_prepared(run: Run, data: Path, result) -> None:
    trained = in_other_form(load_trained(run.path, "ema", CPU), interpolation="bicubic", central_fraction=0.4)
    files = [(label, path) for label, name in enumerate(CLASSES) for path in sorted((data / "val" / name).iterdir())]
    squares = [middle_square_by_pillow(np.array(Image.open(path)), INPUT_PX, 0.4, "bicubic") for _, path in files]
    images = (np.stack(squares) / 255 - trained.recipe.data.mean) / trained.recipe.data.std
    logits = trained.model(torch.from_numpy(images).float().permute(0, 3, 1, 2))
    expected = functional.cross_entropy(logits, torch.tensor([label for label, _ in files])).item()
    found = evaluation_of(trained, data)
    assert found["loss"] == pytest.approx(expected, abs=0.01)
    assert abs(found["loss"] - result["loss"]) > 0.1
    assert (found["keep_aspect"], found["interpolation"], found["mean"]) == (True, "bicubic", [0.485, 0.456, 0.406])
    assert found["exif_orientation"] is False and "EXIF orientation ignored" in found["preparation"]
    assert found["preparation"].startswith(
        "one central crop of 75 px, resized with the shorter side to 75 / 0.4, bicubic, anti"
    )


def test_progress_counts_images(run: Run, data: Path) -> None:
    calls: list[tuple[int, int]] = []
    evaluated(run, data, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(10, 24), (20, 24), (24, 24)]


def test_other_classes(run: Run, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    (other / "val" / "fox").rename(other / "val" / "wolf")
    with pytest.raises(DataError) as caught:
        evaluated(run, other)
    assert "only in the data: wolf; only in the checkpoint: fox" in caught.value.message


def test_most_confused_pairs() -> None:
    matrix = torch.tensor([[9, 2, 0], [5, 9, 0], [0, 1, 9]])
    expected = [("b", "a", 5), ("a", "b", 2), ("c", "b", 1)]
    found = [(pair["true"], pair["predicted"], pair["count"]) for pair in most_confused(matrix, "abc")]
    assert found == expected
    assert [pair["count"] for pair in most_confused(matrix, "abc", most=1)] == [5]
    assert matrix[0, 0] == 9  # the caller's matrix is left as it was


def test_many_classes_get_pairs(run: Run, data: Path, result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inceptionctl.evaluate.evaluation.MAX_MATRIX_CLASSES", 5)
    pairs = evaluated(run, data)["confusion"]
    assert {"true", "predicted", "count"} == pairs[0].keys()
    for pair in pairs:
        assert result["confusion"][CLASSES.index(pair["true"])][CLASSES.index(pair["predicted"])] == pair["count"]


def test_command_writes_and_prints_the_same(run: Run, data: Path, result) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--precision", "fp32", "--json"])
    assert answer.exit_code == 0, answer.output
    printed = json.loads(answer.stdout)
    file = run.evaluations / "step-00000010_ema_single.json"
    assert json.loads(file.read_text()) == printed
    timings = {"seconds", "images_per_second", "loss"}
    assert {key: value for key, value in printed.items() if key not in timings} == {
        key: value for key, value in result.items() if key not in timings
    }
    assert "step-00000010_ema_single.json" in answer.stderr


def test_command_prints_tables(run: Run, result) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--checkpoint", "5", "--weights", "raw"])
    assert answer.exit_code == 0, answer.output
    assert (run.evaluations / "step-00000005_raw_single.json").is_file()
    assert "raw at step 5" in answer.stdout
    assert "rows are the true class" in answer.stdout
    assert all(name in answer.stdout for name in CLASSES)


def test_command_takes_data_and_output(run: Run, data: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    checkpoint = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    file = tmp_path / "new" / "result.json"
    options = ["--data", str(moved), "--output", str(file), "--batch-size", "24", "--json"]
    answer = CliRunner().invoke(app, ["evaluate", str(checkpoint), *options])
    assert answer.exit_code == 0, answer.output
    assert json.loads(file.read_text())["data_root"] == str(moved)


def test_command_without_a_place_to_write_only_prints(run: Run, data: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    before = sorted(tmp_path.rglob("*"))
    answer = CliRunner().invoke(app, ["evaluate", str(checkpoint), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["num_images"] == 24
    assert sorted(tmp_path.rglob("*")) == before


def test_command_says_what_is_damaged(run: Run, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    damage(checkpoint / "ema.safetensors")
    answer = CliRunner().invoke(app, ["evaluate", str(checkpoint)])
    assert answer.exit_code == 5
    assert "ema.safetensors was changed" in answer.stderr and "hint:" in answer.stderr
    assert answer.stdout == ""


def test_command_with_data_of_other_classes(run: Run, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    shutil.rmtree(other / "val" / "cat")
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--data", str(other)])
    assert answer.exit_code == 3
    assert "only in the checkpoint: cat" in answer.stderr
