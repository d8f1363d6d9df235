"""A report of two runs, to read only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.run import Run
from tests.evaluate.making import make_data, make_run, one_thread
from tests.report.reading import Page


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs: `one` was trained in rows, evaluated twice; `two <b>` has nothing of it. To read only."""
    folder = tmp_path_factory.mktemp("report")
    data = make_data(folder / "animals")
    with one_thread():
        made = [make_run(folder / name, data) for name in ("one", "two <b>")]
    rows = [{"kind": "train", "step": k, "epoch": k / 5, "loss": 2.0 - k / 10, "images_per_second": 9.0} for k in (5, 10)]
    rows += [{"kind": "evaluate", "step": k, "epoch": k / 5, "top1_error": 80.0 - k, "top5_error": 20.0} for k in (5, 10)]
    made[0].metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tr')
    for protocol in ("single", "12crop"):
        words = ["evaluate", str(made[0].path), "--protocol", protocol, "--precision", "fp32"]
        assert CliRunner().invoke(app, words).exit_code == 0
    return made


@pytest.fixture(scope="session")
def folder(runs: list[Run]) -> Path:
    out = runs[0].path.parent / "out"
    answer = CliRunner().invoke(app, ["report", *(str(run.path) for run in runs), "--output", str(out)])
    assert answer.exit_code == 0, answer.output
    return out


@pytest.fixture(scope="session")
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))
