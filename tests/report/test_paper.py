"""The paper's tables: each row names a bundled recipe of its network and a command that measures it; a report sets results beside them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.recipe import Ensemble, load_any
from inceptionctl.report.paper import (
    FIRST_TABLE,
    RECIPES,
    TABLES,
    PaperRow,
    PaperTable,
    all_rows,
    ensemble_key,
    evaluation,
    standard_error,
)
from inceptionctl.run import Run
from tests.report.reading import Page

ROOT = Path(__file__).parents[2]
ROWS = [
    pytest.param(table, row, id=f"{number}-{row.label}")
    for number, table in enumerate(TABLES, FIRST_TABLE)
    for row in table.rows
]
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


def parsed(line: str) -> dict[str, Any]:
    """The parameters of a command as it reads them itself."""
    program, name, *words = shlex.split(line)
    assert program == "inceptionctl"
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return dict(command.make_context(name, words).params)


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_the_recipe_is_of_the_rows_network_and_the_command_of_its_protocol(table: PaperTable, row: PaperRow) -> None:
    recipe, line = load_any(RECIPES[row.networks]), evaluation(table, row)
    # 12 crops is what the paper gives its own networks, 10 and densely is what He et al. did.
    wanted = row.protocol or table.protocol
    assert ("ResNet-152" in row.label) == (wanted in ("10crop", "dense"))
    options = parsed(line)
    if isinstance(recipe, Ensemble):
        counted = Counter(member.model.name for member in recipe.members.values())
        key = " + ".join(f"{name} x {count}" if count > 1 else name for name, count in sorted(counted.items()))
        assert (f"ensemble: {key}",) == row.networks
        assert recipe.protocol == wanted
        assert options["sources"] == [Path(RECIPES[row.networks])] and options["protocol"] is None
    else:
        assert recipe.model.name == row.networks[0]
        assert (options["protocol"], options["subset"]) == (wanted, table.subset)


def test_tables_have_the_papers_numbers() -> None:
    assert all(f"Table {number}" in table.title for number, table in enumerate(TABLES, FIRST_TABLE))


def test_recipes_list_shows_every_row() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "list", "--json"]).stdout)
    assert [row for recipe in listed for row in recipe["rows"] if row["recipe"] != recipe["name"]] == []
    shown = [row for recipe in listed for row in recipe["rows"]]
    assert len(shown) == len(ROWS) and all(row in shown for row in all_rows())
    text = CliRunner().invoke(app, ["recipes", "list"], env={"COLUMNS": "200"}).stdout
    for number, expected in ((2, 5), (3, 5), (4, 5), (5, 3)):
        assert text.count(f"Table {number}: inceptionctl ") == expected


def test_lines_of_a_recipes_head_that_go_on_are_joined() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "list", "--json"]).stdout)
    (head,) = [recipe for recipe in listed if recipe["name"] == "quickstart"]
    assert head["differs"].startswith("width 0.25") and head["differs"].endswith("hundreds of thousands.")


def test_the_documented_rows_are_these() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| (\d) \| (.+?) \| `(\w+)` \| `(inceptionctl .+?)` \|$", text, re.M)
    assert written == [(str(row["table"]), row["row"], row["recipe"], row["evaluation"]) for row in all_rows()]


def test_networks_of_few_classes_are_not_set_beside_the_paper(page: Page, folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "1602.07261" not in text and not re.search(r"Table \d", text)
    assert [row for row in page.rows if row[0].startswith(("Inception-v", "ResNet"))] == []


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


def test_an_evaluation_without_a_run_is_set_beside_the_paper(runs: list[Run], tmp_path: Path) -> None:
    told = json.loads((runs[0].evaluations / "step-00000010_ema_single.json").read_text())
    told |= {"classes": [str(i) for i in range(1000)], "network": "inception_v4_tf_slim", "protocol": "144crop"}
    (tmp_path / "tf_in1k.json").write_text(json.dumps(told | {"num_images": 50_000, "top1_error": 18.1, "top5_error": 4.0}))
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "tf_in1k.json"), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    beside = [row for row in page.rows if row[0] == "Inception-v4" and not row[3].startswith("recipe ")]
    assert [row[:5] for row in beside] == [["Inception-v4", "17.7", "3.8", "tf_in1k, 144crop", "18.10"]]
    [row] = [row for row in page.rows if row[0] == "tf_in1k (inception_v4_tf_slim)"]
    assert row[1:5] == ["144crop", "50000", "ema", ""] and row[5].startswith("18.10")


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
