"""The report of runs: whole, self-contained, true to the files, and readable without seeing the pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
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
from inceptionctl.report.page import Reported, named
from inceptionctl.report.paper import TABLES, ensemble_key, standard_error
from inceptionctl.report.pictures import _legend, confusion
from inceptionctl.report.training_loss import least_loss
from inceptionctl.run import Run
from inceptionctl.run_contents import RunContents
from inceptionctl.train import checkpoint_files as files
from tests.evaluate.making import make_data, make_run, one_thread

# Copied from arXiv 1602.07261v2 by another hand than the program's tables: top-1 and top-5 error in percent.
PAPER = {
    "single": {
        "BN-Inception": (25.2, 7.8),
        "Inception-v3": (21.2, 5.6),
        "Inception-ResNet-v1": (21.3, 5.5),
        "Inception-v4": (20.0, 5.0),
        "Inception-ResNet-v2": (19.9, 4.9),
    },
    "12crop": {
        "Inception-v3": (19.8, 4.6),
        "Inception-ResNet-v1": (19.8, 4.6),
        "Inception-v4": (18.7, 4.2),
        "Inception-ResNet-v2": (18.7, 4.1),
    },
    "144crop": {
        "Inception-v3": (18.9, 4.3),
        "Inception-ResNet-v1": (18.8, 4.3),
        "Inception-v4": (17.7, 3.8),
        "Inception-ResNet-v2": (17.8, 3.7),
    },
}


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
    answer = CliRunner().invoke(app, ["report", *(str(run.path) for run in runs), "--output", str(out)])
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
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "1602.07261" not in text and not re.search(r"Table \d", text)
    assert [row for row in page.rows if row[0].startswith(("Inception-v", "ResNet"))] == []


def test_accuracy_stands_beside_error(page: Page) -> None:
    heads = next(row for row in page.rows if row[:2] == ["run", "protocol"])
    row = next(row for row in page.rows if row[:2] == ["one", "single"])
    for error, accuracy in (("top-1 error %", "accuracy %"), ("top-5 error %", "top-5 accuracy %")):
        wrong, right = (row[heads.index(head)].split(" ")[0] for head in (error, accuracy))
        assert float(wrong) + float(right) == pytest.approx(100.0)


def test_the_training_loss_says_what_it_is(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "The loss: cross entropy with label smoothing 0.1, at least 0.42." in text
    assert least_loss(0.0, 6) == 0.0
    # By hand: a target of 1000 classes is 0.9001 and 999 times 0.0001.
    assert least_loss(0.1, 1000) == pytest.approx(-0.9001 * math.log(0.9001) - 0.0999 * math.log(0.0001))


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
    monkeypatch.setattr(page_module, "MOST_HEAT_CLASSES", 5)
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


def test_top5_is_shown_for_more_than_five_classes(tmp_path: Path, runs: list[Run]) -> None:
    run = Path(shutil.copytree(runs[0].path, tmp_path / "five"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("num_classes: 6", "num_classes: 5"))
    for file in (run / "evaluations").glob("*.json"):
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "classes": told["classes"][:5]}))
    for words in (
        ["report", str(run), "--output", str(tmp_path / "out")],
        ["runs", "show", str(run)],
        ["watch", str(run), "--once"],
    ):
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 0 and "top-5" not in answer.stdout, answer.output
    assert "top-5" not in (tmp_path / "out" / "index.html").read_text()
    assert "top-5" in CliRunner().invoke(app, ["runs", "show", str(runs[0].path)]).stdout


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


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c", tmp_path / "a" / ".." / "a" / "run"]
    assert list(named(paths).values()) == ["1-run", "2-run", "c"]


def test_the_name_of_earlier_versions_is_taken(tmp_path: Path, runs: list[Run]) -> None:
    answer = CliRunner().invoke(app, ["report", str(runs[1].path), "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0 and "warning: --out is called --output now" in answer.stderr
    assert json.loads(answer.stdout)["page"] == str(tmp_path / "out" / "index.html")
    assert (tmp_path / "out" / "index.html").is_file()
    assert "--out " not in CliRunner().invoke(app, ["report", "--help"]).stdout


def test_imagenet_is_set_beside_the_paper(runs: list[Run], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[1].path, tmp_path / "v4"))
    told = json.loads((runs[0].evaluations / "step-00000010_ema_single.json").read_text())
    changed = {"classes": [str(i) for i in range(1000)], "num_images": 50000, "top1_error": 17.2, "top5_error": 4.0}
    (run / "evaluations" / "a.json").write_text(json.dumps({**told, **changed, "protocol": "144crop"}))
    (run / "evaluations" / "broken.json").write_text("{")
    answer = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "out")])
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
    answer = CliRunner().invoke(app, ["report", str(run), *files, "--output", str(tmp_path / "out")])
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
    for table, (protocol, rows) in zip(TABLES, PAPER.items(), strict=False):
        assert table.protocol == protocol
        assert {row.label: (row.top1, row.top5) for row in table.rows if not row.label.startswith("ResNet")} == rows


def test_errors(tmp_path: Path, runs: list[Run]) -> None:
    answer = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert answer.exit_code == 5 and "not a run directory" in answer.stderr
    (tmp_path / "x.json").write_text("[]")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), str(tmp_path / "x.json"), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 3 and "no result of an ensemble" in answer.stderr and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), "--output", str(tmp_path / "file")])
    assert answer.exit_code == 4 and "hint:" in answer.stderr


def test_of_several_checkpoints_the_best_is_shown(tmp_path: Path) -> None:
    contents = RunContents(Run(tmp_path))
    reported = Reported("x", contents, [{"step": 5, "n": 1}, {"step": 5, "n": 2}, {"step": 10, "n": 3}])
    assert reported.shown == {"step": 10, "n": 3}
    contents.checkpoints = [{"step": 5, "pointers": ["best"]}, {"step": 10, "pointers": ["latest"]}]
    assert reported.shown == {"step": 5, "n": 2}
    assert Reported("x", contents).shown is None
