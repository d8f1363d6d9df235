"""The model card: read by the Hub's own library, its snippets run, its numbers those of the run."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data import elpv
from inceptionctl.data.sources.class_lists import imagenet_ids
from inceptionctl.evaluate.inputs import folder_of, load_images
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.export.card import CARD, evaluations_of, write_card
from inceptionctl.export.comparison import instruction_set
from inceptionctl.export.exporters import ExportedFile
from inceptionctl.run import Run
from inceptionctl.train.inputs import preparation_of
from tests.commands import environment
from tests.evaluate.making import CLASSES
from tests.evaluate.test_evaluation import in_other_form

CPU = torch.device("cpu")


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def card_of(trained: Trained, folder: Path, *done: ExportedFile, **options: Any) -> str:
    assert write_card(
        trained, folder, done, "8 validation images of /a/b/animals", options.get("license"), options.get("data_license")
    )
    return (folder / CARD).read_text()


def test_the_hub_reads_it(folder: Path, run: Run) -> None:
    found = ModelCard.load(folder / CARD).data
    assert (found.license, found.library_name, found.pipeline_tag) == ("apache-2.0", "inceptionctl", "image-classification")
    assert {"image-classification", "inception_v4", "arxiv:1602.07261", "onnx", "safetensors", "pt2"} <= set(found.tags)
    assert (found.model_name, found.metrics, found.datasets) == ("tiny", ["accuracy"], None)
    results = {one.dataset_args["protocol"]: one for one in found.eval_results if "top-1" in one.metric_name}
    assert set(results) == {"single", "10crop"}
    for protocol, one in results.items():
        saved = json.loads((run.evaluations / f"step-00000010_ema_{protocol}.json").read_text())
        assert one.metric_value == pytest.approx(100 - saved["top1_error"], abs=1e-4)
        assert (one.dataset_name, one.dataset_split, one.dataset_args["num_images"]) == ("animals", "validation", 24)
        assert f"| {saved['top1_error']:.2f}% | {saved['top1_error_interval'][0]:.2f} to" in (folder / CARD).read_text()
    assert len(found.eval_results) == 4
    ModelCard((folder / CARD).read_text()).data.to_yaml()


def test_what_is_not_known_is_said_so(trained: Trained, tmp_path: Path) -> None:
    bare = Trained(trained.model, trained.recipe, trained.classes, trained.step, trained.checkpoint, "raw")
    text = card_of(bare, tmp_path)
    assert "None: this checkpoint was not evaluated." in text
    assert "Licence of the weights: none was given." in text and "its licence: not stated." in text
    assert "The machine that it was trained on is not known here." in text
    data = ModelCard(text).data
    assert data.license is None and not data.eval_results


def test_every_file_is_named(folder: Path) -> None:
    text = (folder / CARD).read_text()
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != CARD]
    assert {"config.json", "model_fp16.onnx", "model_int8.onnx", "model.pt"} <= set(found)
    assert [name for name in found if f"| `{name}` |" not in text] == []
    assert "| `config.json` |" in text and "belongs to `model.safetensors`" in text


def test_files_that_take_pictures_are_asked_with_pictures(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "model_pixels.onnx").write_bytes(b"x")
    text = card_of(trained, tmp_path, ExportedFile("onnx", tmp_path / "model_pixels.onnx", 1, 1e-6, 1.0))
    assert '{"pixels": np.asarray(image)[None]}' in text and '{"images": prepare("photo.jpg")}' not in text


def in_data(trained: Trained, root: Path, classes: tuple[str, ...], data_license: str | None = None) -> Trained:
    recipe = trained.recipe
    changed = {
        "data": recipe.data.model_copy(update={"root": str(root)}),
        "export": recipe.export.model_copy(update={"data_license": data_license}),
    }
    return replace(trained, recipe=recipe.model_copy(update=changed), classes=classes)


def test_the_licence_of_data_is_told_of_those_data_alone(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ("mono_defect", "mono_ok")
    monkeypatch.setattr(elpv, "NUM_IMAGES", dict.fromkeys(classes, 1))
    root = tmp_path / "elpv"
    for name in classes:
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / "1.png").touch()
    told = "its licence: CC BY-NC-SA 4.0."
    assert told not in card_of(in_data(trained, root, classes), tmp_path)
    (root / "elpv.json").write_text(json.dumps({"num_images": {f"val/{name}": 1 for name in classes}}))
    assert told in card_of(in_data(trained, root, classes), tmp_path)
    assert "its licence: not stated." in card_of(in_data(trained, root, ("my", "own")), tmp_path)
    assert "its licence: ours." in card_of(in_data(trained, root, classes, "ours"), tmp_path)
    (root / "val" / "mono_ok" / "2.png").touch()  # somebody's own photograph among them
    assert "its licence: not stated." in card_of(in_data(trained, root, classes), tmp_path)


def test_results_on_other_data_are_told_with_their_name(run: Run, trained: Trained, tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "tiny"
    shutil.copytree(run.path, place, ignore=shutil.ignore_patterns("export"))
    file = place / "evaluations" / "step-00000010_ema_single.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "data_root": "/somewhere/plants"}))
    text = card_of(load_trained(place, "ema", CPU), tmp_path)
    assert "| 24 (all, plants) |" in text
    names = {one.dataset_args["protocol"]: one.dataset_name for one in ModelCard(text).data.eval_results}
    assert names == {"single": "plants", "10crop": "animals"}


def test_no_folder_of_this_machine_is_told(folder: Path, run: Run, data: Path) -> None:
    text = (folder / CARD).read_text()
    assert str(data.parent) not in text and str(run.path.parent) not in text and "/tmp" not in text
    assert "8 validation images of animals" in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert recipe["data"]["root"] == "animals" and recipe["train"] == run.recipe().resolved()["train"]


def test_every_snippet_runs_and_agrees(folder: Path, run: Run, data: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "card"))
    shutil.copy(data / "val" / "dog" / "1.jpg", place / "photo.jpg")
    prepare, *uses = blocks((place / CARD).read_text())
    assert len(uses) == 4
    program = prepare + "".join(f"{use}\nprint(np.asarray(logits).tolist())\n" for use in uses)
    ran = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, env=environment())
    assert ran.returncode == 0, ran.stderr
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(place / "photo.jpg"), "--json"])
    classes = {one["class"]: one["probability"] for one in json.loads(answer.stdout)["predictions"][0]["classes"]}
    lines = ran.stdout.splitlines()
    for name, logits in zip(lines[::2], lines[1::2], strict=True):
        assert name == max(classes, key=classes.__getitem__)
        probabilities = dict(zip(CLASSES, torch.tensor(json.loads(logits)).softmax(1)[0].tolist(), strict=True))
        assert all(probabilities[one] == pytest.approx(value, abs=0.01) for one, value in classes.items())


@pytest.mark.parametrize("ours", ["mine", "{files: [1, {file: x}]}", "{checkpoint_sha256: SHA, files: [1, {file: x}]}", "[]"])
def test_a_card_changed_by_hand_is_no_stumbling_block(ours: str, trained: Trained, tmp_path: Path) -> None:
    text = f"---\ninceptionctl: {ours.replace('SHA', trained.weights_sha256)}\n---\n"
    (tmp_path / CARD).write_text(text)
    replaced = write_card(trained, tmp_path, [], "x", None, None) is not None
    assert replaced is ours.startswith("{") and ((tmp_path / CARD).read_text() == text) is not replaced


@pytest.mark.parametrize(
    ("form", "most"),
    [
        ({}, 0.02),
        ({"keep_aspect": False, "interpolation": "bilinear", "antialias": True}, 0.02),
        ({"keep_aspect": True, "interpolation": "bicubic", "antialias": True}, 0.05),
        ({"keep_aspect": True, "interpolation": "nearest", "antialias": False}, 0.4),
    ],
)
def test_images_are_prepared_as_in_the_evaluations(
    form: dict, most: float, trained: Trained, data: Path, tmp_path: Path
) -> None:
    other = in_other_form(trained, **form) if form else trained
    prepare = blocks(card_of(other, tmp_path))[0]
    scope: dict[str, Any] = {}
    exec(prepare, scope)
    images = sorted((data / "val").glob("*/*.jpg"))[:6]
    (expected,) = load_images(folder_of(images), preparation_of(other.recipe), batch_size=6, num_threads=1)
    found = np.concatenate([scope["prepare"](path) for path in images])
    assert found.dtype == np.float32 and found.shape == expected.shape
    # Of [-1, 1] or so: one level of 255 is 0.008.
    assert np.abs(found - expected.numpy()).mean() < most / 4
    assert np.quantile(np.abs(found - expected.numpy()), 0.99) < most


def test_a_filter_that_pillow_has_not_is_said(trained: Trained, tmp_path: Path) -> None:
    text = card_of(in_other_form(trained, interpolation="bicubic", antialias=False), tmp_path)
    assert "Pillow widens this filter" in text
    assert "Pillow widens this filter" not in card_of(trained, tmp_path)


def exported(folder: Path, name: str) -> ExportedFile:
    (folder / name).write_bytes(b"x")
    return ExportedFile(name.rpartition(".")[2], folder / name, 1, 1e-6, 1.0)


def test_where_the_accuracy_was_measured_is_told(folder: Path) -> None:
    text = (folder / CARD).read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `model_int8.onnx`"))
    assert re.search(r"points of top-1 accuracy lost \(95%: -?\d+\.\d\d to \d+\.\d\d\), on a processor with", row), row
    assert row.endswith(f"with {instruction_set()} |")


def test_exports_of_the_same_checkpoint_from_before_stay_in_it(trained: Trained, run: Run, tmp_path: Path) -> None:
    assert "`a.onnx`" in card_of(trained, tmp_path, exported(tmp_path, "a.onnx"))
    text = card_of(trained, tmp_path, exported(tmp_path, "b.pt2"))
    assert "`a.onnx`" in text and "`b.pt2`" in text
    (tmp_path / "b.pt2").unlink()
    assert "`b.pt2`" not in card_of(trained, tmp_path)
    other = load_trained(run.path, "ema", CPU, "5")
    assert "`a.onnx`" not in card_of(other, tmp_path)


def test_somebody_elses_readme_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("---\nlicense: mit\n---\nmine")
    answer = CliRunner().invoke(app, ["export", str(run.path), "--format", "safetensors", "--output", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    assert "README.md is not from inceptionctl and was kept" in answer.stderr
    assert json.loads(answer.stdout)["card"] is None
    assert (tmp_path / CARD).read_text().endswith("mine")


def test_a_training_is_told_with_its_machines(trained: Trained, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "other"
    shutil.copytree(run.path, place, ignore=shutil.ignore_patterns("evaluations", "export"))
    (place / "evaluations").mkdir()
    start = {
        "started": "2026-11-21",
        "ranks": 2,
        "gpus": [],
        "cores": 4,
        "precision": "bf16",
        "from_step": 0,
        "python": "3.11.2",
    }
    (place / "environment.json").write_text(
        json.dumps([{**start, "versions": {"torch": "2.13.0"}, "host": "secret"}, {"older": 1}])
    )
    row = {"kind": "evaluate", "step": 10, "epoch": 1.0, "top1_error": 12.5, "top5_error": 1.25, "num_images": 24}
    (place / "metrics.jsonl").write_text(json.dumps({**row, "step": 5, "top1_error": 50.0}) + "\n" + json.dumps(row) + "\n")
    (place / "evaluations" / "old.json").write_text(json.dumps({"step": 10, "weights": "ema", "top1_error": 3.0}))
    text = card_of(load_trained(place, "ema", CPU), tmp_path)
    assert "| 2026-11-21 | 2 | CPU, 4 cores | bf16 | 0 | Python 3.11.2, torch 2.13.0 |" in text and "secret" not in text
    assert "24 validation images of animals: top-1 error 12.50%, top-5 error 1.25%" in text
    assert "model-index" not in text


def test_only_evaluations_of_these_weights_count(run: Run, folder: Path, trained: Trained) -> None:
    assert {one["file"] for one in evaluations_of(trained)} == {
        f"step-00000010_ema_{name}.json" for name in ("single", "10crop")
    }
    assert evaluations_of(load_trained(run.path, "raw", CPU)) == []
    assert evaluations_of(load_trained(run.path, "ema", CPU, "5")) == []


def test_imagenet_is_named_and_licences_are_written_as_the_hub_wants(trained: Trained, tmp_path: Path) -> None:
    thousand = Trained(trained.model, trained.recipe, tuple(imagenet_ids()), trained.step, trained.checkpoint, "ema")
    text = card_of(thousand, tmp_path, license="My own terms")
    data = ModelCard(text).data
    assert data.datasets == ["ILSVRC/imagenet-1k"] and "ImageNet-1k" in text
    assert (data.license, data.license_name) == ("other", "My own terms")
