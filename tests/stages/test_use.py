"""Evaluating, exporting and predicting as calls from Python: the same results as the commands'."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.run import Run
from inceptionctl.stages.evaluate import EvaluateRequest, evaluate
from inceptionctl.stages.export import ExportRequest, export
from inceptionctl.stages.predict import PredictRequest, SubmissionRequest, predict, submit
from tests.evaluate.making import CLASSES, make_data, make_run, one_thread


@pytest.fixture(scope="module", autouse=True)
def fast() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = make_data(tmp_path_factory.mktemp("data"))
    return make_run(tmp_path_factory.mktemp("runs") / "run", data, best=5)


def test_every_checkpoint_evaluated(run: Run) -> None:
    first, second = evaluate(EvaluateRequest(run.path, every=True))
    assert (first.result["step"], second.result["step"]) == (5, 10)
    for one in (first, second):
        assert one.file and json.loads(one.file.read_text(encoding="utf-8")) == one.result
    with pytest.raises(RecipeError, match="--all takes every checkpoint"):
        evaluate(EvaluateRequest(run.path, every=True, checkpoint="best"))
    with pytest.raises(DataError, match="nowhere"):
        evaluate(EvaluateRequest(run.path, data=Path("nowhere")))


def test_an_export_answers_as_the_run_does(run: Run, tmp_path: Path) -> None:
    done = export(ExportRequest(run.path, ("safetensors", "onnx"), output=tmp_path / "export", checkpoint="latest"))
    assert [item["format"] for item in done.result["exports"]] == ["safetensors", "onnx"] and done.card
    images = tuple(sorted((run.recipe().data.root_path / "val").rglob("*.jpg")))
    assert images
    by_run, by_file = (
        predict(PredictRequest(source, images, checkpoint))
        for source, checkpoint in ((run.path, "latest"), (tmp_path / "export" / "model.onnx", None))
    )
    assert [item.image for item in by_run.predictions] == list(images)
    for one, other in zip(by_run.predictions, by_file.predictions, strict=True):
        assert one.classes[0][0] == other.classes[0][0]
        assert one.classes[0][1] == pytest.approx(other.classes[0][1], abs=1e-4)


def test_a_submission_is_written(run: Run, tmp_path: Path) -> None:
    images = sorted((run.recipe().data.root_path / "val").rglob("*.jpg"))[:2]
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{name} {number}\n" for number, name in enumerate(CLASSES, 1)), encoding="utf-8")
    done = submit(SubmissionRequest(run.path, tuple(images), tmp_path / "out.txt", class_ids=ids))
    assert done and len(done.file.read_text(encoding="utf-8").splitlines()) == 2 and done.record.is_file()
