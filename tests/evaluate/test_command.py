"""`inceptionctl evaluate` as a user gives it: every checkpoint, an export, drawn crops, interruptions, usage errors."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.crop_boxes import crops_png
from inceptionctl.protocols import ProtocolName, make_protocol
from inceptionctl.recipe import recipe_from_dict
from inceptionctl.run import Run
from inceptionctl.train.inputs import preparation_of
from tests.commands import inceptionctl, started
from tests.evaluate.making import make_data, make_run


def test_every_checkpoint(run: Run) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--all", "--precision", "fp32", "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert [one["step"] for one in told] == [5, 10] and told[0]["loss"] != told[1]["loss"]
    for one in told:
        file = run.evaluations / f"step-{one['step']:08d}_ema_single.json"
        assert json.loads(file.read_text()) == one and file.with_suffix(".parquet").is_file()


def test_a_data_set_that_has_gone_is_named_by_the_option_there_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_data(tmp_path / "animals", num_val=1))
    shutil.rmtree(tmp_path / "animals")
    for verb in (("evaluate",), ("bench", "evaluate")):
        answer = CliRunner().invoke(app, [*verb, str(run.path)])
        assert answer.exit_code == 3 and f"the data set {tmp_path / 'animals'} does not exist" in answer.stderr
        assert "set it with `--data FOLDER`" in answer.stderr and "--set" not in answer.stderr


@pytest.mark.slow
def test_an_export_has_the_numbers_of_its_checkpoint(run: Run) -> None:
    assert CliRunner().invoke(app, ["export", str(run.path), "--format", "onnx"]).exit_code == 0
    results = []
    for source in (run.path, run.export / "model.onnx"):
        answer = CliRunner().invoke(app, ["evaluate", str(source), "--protocol", "12crop", "--precision", "fp32", "--json"])
        assert answer.exit_code == 0, answer.output
        results.append(json.loads(answer.stdout))
    one, other = results
    assert (run.evaluations / "step-00000010_ema_onnx_12crop.json").is_file()
    assert other["checkpoint"].endswith("model.onnx")
    assert one["confusion"] == other["confusion"] and one["top5_error"] == other["top5_error"]
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


@pytest.mark.parametrize("protocol", ["single", "12crop", "144crop", "dense"])
def test_crops_are_drawn(run: Run, data: Path, tmp_path: Path, protocol: str) -> None:
    photo = data / "val" / "bear" / "0.jpg"
    file = tmp_path / "crops.png"
    words = ["evaluate", str(run.path), "--protocol", protocol, "--show-crops", str(photo), "--output", str(file)]
    assert CliRunner().invoke(app, words).exit_code == 0
    with Image.open(file) as drawn, Image.open(photo) as plain:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or ()}
        assert ((0, 114, 178) in colours or protocol == "dense") and drawn.width > plain.width


@pytest.mark.parametrize(("protocol", "squares", "places"), [("10crop", 1, 5), ("12crop", 1, 6), ("144crop", 12, 6)])
def test_a_drawing_has_a_legend_and_the_whole_square(
    data: Path, monkeypatch: pytest.MonkeyPatch, protocol: ProtocolName, squares: int, places: int
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    photo = data / "val" / "bear" / "1.jpg"
    crops_png(photo, make_protocol(protocol, 75), preparation_of(recipe_from_dict({"model": {"input_px": 75}}, "test")))
    (figure,) = figures
    named = ["top left", "top right", "bottom left", "bottom right", "centre", "whole square"][:places]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == named
    assert len(figure.axes) == squares
    with Image.open(photo) as plain:
        shorter = min(plain.size)
    for axes in figure.axes:
        boxes = {patch.get_label(): patch for patch in axes.patches if isinstance(patch, Rectangle)}
        assert list(boxes) == named
        if "whole square" in boxes:
            whole = boxes["whole square"]
            assert (whole.get_width(), whole.get_height()) == (shorter, shorter)
            assert whole.get_linestyle() == "--" != boxes["centre"].get_linestyle()
            assert all(
                whole.get_bbox().count_contains(box.get_bbox().corners()) == 4 for box in boxes.values() if box is not whole
            )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--protocol", "10crop", "--scales", "a"], 2, "not whole numbers"),
        (["--protocol", "10crop", "--scales", "342,²"], 2, "not whole numbers"),
        (["--scales", "86"], 2, "does not apply to the recipe"),
        (["--protocol", "144crop", "--scales", "74"], 2, "smaller than the network's input of 75 px"),
        (["--all", "--output", "x.json"], 2, "--all writes a file per checkpoint"),
        (["--show-crops", "nothing.jpg"], 3, "nothing.jpg"),
    ],
)
def test_usage_errors(run: Run, words: list[str], code: int, told: str) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), *words])
    assert answer.exit_code == code and told in answer.stderr and "hint:" in answer.stderr


@pytest.mark.slow
def test_a_signal_keeps_what_was_answered(run: Run, tmp_path: Path) -> None:
    root = make_data(tmp_path / "many", num_val=20)
    file = tmp_path / "result.json"
    words = ["evaluate", run.path, "--data", root, "--protocol", "144crop", "--precision", "fp32", "--output", file]
    log = tmp_path / "log.txt"
    with started(*words, cwd=tmp_path, log=log) as process:
        parts = tmp_path / ".result.parts"
        deadline = time.monotonic() + 120
        while not list(parts.glob("part-*.npy")) and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75, log.read_text()
    assert "stopped by SIGTERM" in log.read_text() and "batches are kept" in log.read_text()
    assert not file.exists()
    done = inceptionctl(*words)
    assert done.returncode == 0 and "resuming:" in done.stderr, done.stderr
    assert json.loads(file.read_text())["num_images"] == 120 and not parts.exists()
