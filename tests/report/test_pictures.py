"""The pictures of a report: each says what it shows and is true to the records, and why one is missing is told."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.records import Record, read_record
from inceptionctl.report import page as page_module
from inceptionctl.report.pictures import _legend, confusion
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from tests.report.reading import Page


def test_every_picture_opens_and_says_what_it_shows(folder: Path, page: Page) -> None:
    assert len(page.images) >= 5  # curves, calibration, confusions, crops
    for image in page.images:
        assert len(image["alt"] or "") > 15, image["alt"]
        content = base64.b64decode(str(image["src"]).partition(",")[2])
        assert Image.open(io.BytesIO(content)).width > 20
    assert any("one: 70.00" in str(image["alt"]) for image in page.images)
    assert {file.name for file in folder.glob("*.png")} == {
        "errors.png",
        "training.png",
        "reliability-one.png",
        "confusion-one.png",
    }


def test_pictures_are_found_from_another_directory_and_missed_with_the_reason(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs[0].path.parent / "animals", tmp_path / "animals")
    run = Run(Path(shutil.copytree(runs[1].path, tmp_path / "run")))
    for checkpoint in files.list_checkpoints(run.checkpoints):
        told = files.read_progress(checkpoint)
        told["recipe"]["data"]["root"] = "animals"
        (checkpoint / "progress.json").write_text(json.dumps(told))
        files.seal(checkpoint)
    run.environment_file.write_text(json.dumps([{"directory": str(tmp_path)}]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    evaluated = CliRunner().invoke(app, ["evaluate", str(run.path), "--precision", "fp32"])
    assert evaluated.exit_code == 0, evaluated.output

    def reported(out: str) -> tuple[list[str], str]:
        answer = CliRunner().invoke(app, ["report", str(run.path), "--output", out])
        assert answer.exit_code == 0, answer.output
        text = Path(out, "index.html").read_text(encoding="utf-8")
        return [str(image["alt"]) for image in Page(text).images], text

    alts, text = reported("found")
    assert any("taken for" in alt for alt in alts) and any("crops of protocol" in alt for alt in alts)
    assert "not shown" not in text and "not drawn" not in text
    (tmp_path / "animals").rename(tmp_path / "gone")
    alts, text = reported("missed")
    assert not any("taken for" in alt or "crops of protocol" in alt for alt in alts)
    why = f"the data root {tmp_path / 'animals'} is not on this machine, or not mounted"
    assert f"Pictures are not shown: {why}." in text and f"not drawn, since {why}." in text


def test_the_confusion_matrix_is_that_of_the_records(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    monkeypatch.setattr(page_module, "confusion", lambda name, matrix, classes: drawn.setdefault(name, (matrix, classes)))
    list(page_module._pictures([page_module._reported(runs[0], "one")]))
    told = json.loads((runs[0].evaluations / "step-00000010_ema_12crop.json").read_text())
    assert (drawn["one"][0].tolist(), drawn["one"][1]) == (told["confusion"], told["classes"])


def test_a_heat_map_is_darker_where_more_images_are() -> None:
    drawn = confusion("x", np.array([[90, 10], [0, 40]]), ["cat", "dog"])
    assert drawn.alt == "Confusion matrix of x: 130 of 140 images are on the diagonal."
    for theme, order in (("light", 1), ("dark", -1)):
        pixels = np.asarray(Image.open(io.BytesIO(drawn.png[theme])).convert("L")).astype(int)
        cells = pixels[: 2 * pixels.shape[0] // 3, : 2 * pixels.shape[1] // 3]
        depth = np.bincount(cells.ravel(), minlength=256)
        assert (
            order * (int(pixels[2, 2]) - int(np.argsort(depth)[-2])) > 100
        )  # the ground, and the next most frequent: the diagonal


def test_many_classes_have_their_worst_pairs_and_no_heat_map(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_HEAT_CLASSES", 5)
    one = page_module._reported(runs[0], "one")
    assert not any(picture.name.startswith("confusion") for picture in page_module._pictures([one]))
    confused = page_module._confused(one)
    assert confused and confused["pairs"]


def test_legends_read_row_by_row() -> None:
    names = [f"run {k}" for k in range(8)]
    figure = Figure(figsize=(9.6, 4.2))
    _legend(figure, {name: [] for name in names})
    FigureCanvasAgg(figure).draw()
    texts = figure.legends[0].get_texts()
    places = {text.get_text(): text.get_window_extent() for text in texts}
    assert sorted(names, key=lambda name: (-round(places[name].y0), places[name].x0)) == names


def test_why_pictures_are_not_shown(tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    one = page_module._reported(runs[0], "one")
    assert one.record
    image, shard = one.record.images[0], tmp_path / "val" / "0.tar"
    shard.parent.mkdir()
    shard.write_text("")
    (tmp_path / "broken.jpg").write_text("no image")
    for root, name, why in (
        ("/nowhere", image, "the data root /nowhere is not on this machine"),
        ("data/animals", image, f"the data root data/animals is relative, and not below this folder ({Path.cwd()})"),
        (str(tmp_path), "val/0.tar/000.jpg", "lie in shards"),
        (str(tmp_path), "gone.jpg", "gone.jpg is gone since the evaluation"),
        (str(tmp_path), "broken.jpg", "broken.jpg cannot be read here"),
    ):
        assert why in page_module._why_not_shown(Path(root), name)
    run = Path(shutil.copytree(runs[0].path, tmp_path / "moved"))
    monkeypatch.setattr(page_module, "read_record", lambda path: moved(read_record(path)))
    answer = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Pictures are not shown: the data root /nowhere is not on this machine, or not mounted." in text
    assert "moved: not drawn, since the data root /nowhere is not on this machine, or not mounted." in text


def moved(record: Record) -> Record:
    return dataclasses.replace(record, about={**record.about, "data_root": "/nowhere", "data_root_absolute": "/nowhere"})
