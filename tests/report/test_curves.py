import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.report.curves import draw_curves
from inceptionctl.run import Run
from inceptionctl.run_contents import read_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows: list[dict[str, object]] = [
        {"kind": "train", "step": step, "epoch": step / 10, "loss": 3.0 / step if step != 5 else "nan"} for step in range(1, 41)
    ]
    rows += [
        {"kind": "evaluate", "step": s, "epoch": s / 10, "loss": 1.0, "top1_error": 90.0 - s, "top5_error": 20.0}
        for s in (10, 20)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(tmp_path)


def test_curves_are_drawn(run: Run) -> None:
    draw_curves(run, run.path / "curves.png")
    pixels = np.asarray(Image.open(run.path / "curves.png").convert("RGB"))
    assert pixels.shape == (480, 1080, 3)
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # both lines of each half
    draw_curves(run, run.path / "curves.svg")
    assert "<svg" in (run.path / "curves.svg").read_text()


def test_errors_of_other_images_are_other_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"kind": "evaluate", "step": step, "epoch": step / 10, "loss": 0.5, "top1_error": error, "subset": "non-blacklisted"}
        for step, error in ((30, 40.0), (40, 39.0))
    ]
    with run.metrics_file.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def kept(axes: Axes, epochs: list[float], values: list[float], **style: str) -> object:
        drawn[style["label"]] = list(values)
        return plot(axes, epochs, values, **style)

    monkeypatch.setattr(Axes, "plot", kept)
    draw_curves(run, run.path / "curves.png")
    assert drawn["top-1"] == [80.0, 70.0] and drawn["top-1, non-blacklisted"] == [40.0, 39.0]
    assert drawn["validation, EMA"] == [1.0, 1.0] and drawn["validation, EMA, non-blacklisted"] == [0.5, 0.5]

    found = read_run(run)
    assert (found.validated_on, found.best_top1_error) == ("non-blacklisted", 39.0)
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({**rows[0], "step": 50, "epoch": 5.0, "top1_error": 75.0, "subset": "all"}) + "\n")
    found = read_run(run)
    assert (found.validated_on, found.best_top1_error) == ("all", 70.0)


def test_what_cannot_be_drawn_is_worded(run: Run) -> None:
    with pytest.raises(RecipeError, match=r"curves\.docx: its suffix is none of png, svg, pdf"):
        draw_curves(run, run.path / "curves.docx")
    run.metrics_file.write_text("")
    with pytest.raises(DataError, match="no numbers yet"):
        draw_curves(run, run.path / "curves.png")
