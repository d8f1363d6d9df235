"""The report of runs: whole, self-contained, true to the files, and readable without seeing the pictures."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.report.page import Reported
from inceptionctl.report.paper import TABLES, ensemble_key, standard_error
from inceptionctl.run import Run
from inceptionctl.run_contents import RunContents
from tests.evaluate.making import make_data, make_run, one_thread

PAPER = Path(__file__).parents[3] / "shared" / "paper.md"


class Page(HTMLParser):
    """Images, links, table rows and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        for key in ("src", "srcset", "href", "data"):
            if key in values and not str(values[key]).startswith("data:"):
                self.outside.append(f"{tag} {values[key]}")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += " ".join(data.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs: `one` was trained in rows, evaluated twice; `two <b>` has nothing of it."""
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


@pytest.fixture(scope="module")
def folder(runs: list[Run]) -> Path:
    out = runs[0].path.parent / "out"
    answer = CliRunner().invoke(app, ["report", *(str(run.path) for run in runs), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_nothing_is_asked_of_the_network(folder: Path, page: Page) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert page.outside == []
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_every_picture_opens_and_says_what_it_shows(folder: Path, page: Page) -> None:
    assert len(page.images) >= 5  # curves, calibration, confusions, crops
    for image in page.images:
        assert len(image["alt"] or "") > 15, image["alt"]
        content = base64.b64decode(str(image["src"]).partition(",")[2])
        assert Image.open(io.BytesIO(content)).width > 20
    assert any("one: 70.00" in str(image["alt"]) for image in page.images)
    assert {file.name for file in folder.glob("*.png")} == {"errors.png", "training.png", "reliability-one.png"}


def test_names_are_text_and_no_markup(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "two &lt;b&gt;" in text and "two <b>" not in text


def test_the_evaluations_are_those_of_the_files(runs: list[Run], page: Page) -> None:
    for file in sorted(runs[0].evaluations.glob("*.json")):
        told = json.loads(file.read_text())
        row = next(row for row in page.rows if row[:2] == ["one", told["protocol"]])
        error = told["top1_error"]
        assert f"{error:.2f} ± {standard_error(error, 24):.2f}" in row
        assert f"{told['loss']:.4f}" in row


def test_confusions_are_counted(runs: list[Run], folder: Path) -> None:
    told = json.loads((runs[0].evaluations / "step-00000010_ema_12crop.json").read_text())
    names, matrix = told["classes"], told["confusion"]
    worst = max((matrix[i][j], names[i], names[j]) for i in range(6) for j in range(6) if i != j)
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert f" taken for {worst[2]}: {worst[0]} of 4" in text


def test_networks_of_few_classes_are_not_set_beside_the_paper(page: Page, folder: Path) -> None:
    assert "nothing to compare" in (folder / "index.html").read_text(encoding="utf-8")
    for label in ("Inception-v4", "Inception-v3"):
        for row in page.rows:
            if row[0] == label:
                name = label.lower().replace("-", "_")
                assert len(row) == 4 and re.fullmatch(rf"recipe {name}: ?inceptionctl evaluate RUN --\S+ \S+", row[3])


def test_imagenet_is_set_beside_the_paper(runs: list[Run], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1].path, tmp_path / "v4"))
    told = json.loads((runs[0].evaluations / "step-00000010_ema_single.json").read_text())
    changed = {"classes": [str(i) for i in range(1000)], "num_images": 50000, "top1_error": 17.2, "top5_error": 4.0}
    (run / "evaluations" / "a.json").write_text(json.dumps({**told, **changed, "protocol": "144crop"}))
    (run / "evaluations" / "broken.json").write_text("{")
    answer = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    rows = [row for row in page.rows if row[0] == "Inception-v4" and not row[3].startswith("recipe ")]
    se = standard_error(17.2, 50000)
    assert rows == [
        [
            "Inception-v4",
            "17.7",
            "3.8",
            "v4, 144crop",
            "17.20",
            f"-0.50 ± {se:.2f}",
            "4.00",
            f"+0.20 ± {standard_error(4.0, 50000):.2f}",
        ]
    ]
    assert se == pytest.approx(0.169, abs=1e-3)


def test_results_are_in_the_tables_of_their_protocol_and_subset(runs: list[Run], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1].path, tmp_path / "v4"))
    told = json.loads((runs[0].evaluations / "step-00000010_ema_single.json").read_text())
    told |= {"classes": [str(i) for i in range(1000)], "num_images": 50_000}
    made = [
        (protocol, subset)
        for protocol in ("single", "10crop", "12crop", "144crop", "dense")
        for subset in ("all", "non-blacklisted")
    ]
    for k, (protocol, subset) in enumerate(made):
        result = {**told, "protocol": protocol, "subset": subset, "top1_error": 10.0 + k, "step": 10 + k}
        (run / "evaluations" / f"{k}.json").write_text(json.dumps(result))
    members = [{"network": name} for name in ("inception_v4_tf_slim", *["inception_resnet_v2"] * 3)]
    names = [f"{subset}_{protocol}" for subset in ("all", "non-blacklisted") for protocol in ("144crop", "12crop")]
    for name in names:
        subset, protocol = name.split("_")
        result = {**told, "subset": subset, "protocol": protocol, "members": members}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    files = [str(tmp_path / f"{name}.json") for name in names]
    answer = CliRunner().invoke(app, ["report", str(run), *files, "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    tables = [part for part in text.split("<h3>") if re.match(r"[^<]*\(Table \d, AAAI: Table \d\)", part)]
    shown = [[(row[0].split("(")[0], row[3], row[4]) for row in Page(part).rows if len(row) == 8 and row[3]] for part in tables]
    heads = ("network", "run", "top-1")
    assert shown == [
        [heads, ("Inception-v4", "v4, single (50000 images)", "11.00")],
        [heads, ("Inception-v4", "v4, 12crop", "14.00")],
        [heads, ("Inception-v4", "v4, 144crop", "16.00")],
        [heads, ("Inception-v4 + Inception-ResNet-v2 x 3", "all_144crop, 144crop", f"{told['top1_error']:.2f}")],
    ]
    assert "3.08%" in tables[-1]
    rows = [row for row in Page(text).rows if row[0] == "non-blacklisted_144crop (4 members)"]
    assert [row[2] for row in rows] == ["50000 non-blacklisted"]


def test_only_the_papers_networks_stand_beside_it() -> None:
    assert {row.label for table in TABLES for row in table.rows if "inception_resnet_v2_tf_slim" in row.networks} == set()
    of_resnet = [(table.protocol, row.protocol) for table in TABLES for row in table.rows if row.label.startswith("ResNet")]
    assert of_resnet == [("12crop", "10crop"), ("144crop", "dense"), ("144crop", "dense")]
    assert ensemble_key(["inception_v3_torchvision", "inception_v3"]) == "ensemble: inception_v3 x 2"


def test_the_tables_are_the_papers() -> None:
    if not PAPER.is_file():
        pytest.skip("the paper's figures are not beside this checkout (../shared/paper.md)")
    text = PAPER.read_text(encoding="utf-8")
    for table, heads in zip(TABLES, (None, (0, 1), (2, 3), None), strict=True):
        for row in table.rows:
            if row.label.startswith("ResNet") or len(row.networks) != len(set(row.networks)):
                continue
            lines = [line for line in text.splitlines() if line.startswith(f"| {row.label} |")]
            if heads is None and table is TABLES[0]:
                cells = lines[0].split("|")[2:4]
                assert [float(cell) for cell in cells] == [row.top1, row.top5]
            elif heads:
                cells = [float(cell) for cell in lines[1].split("|")[2:6]]
                assert [cells[k] for k in heads] == [row.top1, row.top5], row.label


def test_errors(tmp_path: Path, runs: list[Run]) -> None:
    answer = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert answer.exit_code == 5 and "not a run directory" in answer.stderr
    (tmp_path / "x.json").write_text("[]")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), str(tmp_path / "x.json"), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 3 and "no result of an ensemble" in answer.stderr and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), "--out", str(tmp_path / "file")])
    assert answer.exit_code == 4 and "hint:" in answer.stderr


def test_of_several_checkpoints_the_best_is_shown(tmp_path: Path) -> None:
    contents = RunContents(Run(tmp_path))
    reported = Reported("x", contents, [{"step": 5, "n": 1}, {"step": 5, "n": 2}, {"step": 10, "n": 3}])
    assert reported.shown == {"step": 10, "n": 3}
    contents.checkpoints = [{"step": 5, "pointers": ["best"]}, {"step": 10, "pointers": ["latest"]}]
    assert reported.shown == {"step": 5, "n": 2}
    assert Reported("x", contents).shown is None
