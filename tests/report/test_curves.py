import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.report.curves import draw_curves
from inceptionctl.run import Run


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


def test_what_cannot_be_drawn_is_worded(run: Run) -> None:
    with pytest.raises(RecipeError, match=r"curves\.docx: its suffix is none of png, svg, pdf"):
        draw_curves(run, run.path / "curves.docx")
    run.metrics_file.write_text("")
    with pytest.raises(DataError, match="no numbers yet"):
        draw_curves(run, run.path / "curves.png")
