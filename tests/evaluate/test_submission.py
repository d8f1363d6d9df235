"""The ILSVRC test server's file: against an evaluation of the same photographs, counted by the development kit's rule."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.sources.class_lists import imagenet_ids, read_class_ids
from inceptionctl.errors import DataError
from inceptionctl.evaluate.unlabelled import ids_of, lines_lacking, numeric_order, submission
from inceptionctl.run import Run
from tests.evaluate.making import CLASSES

IDS = (40, 7, 1000, 3, 12, 500)
# The first lines of the kit's ILSVRC2012_validation_ground_truth.txt, and the synsets of the same images in other lists.
GROUND_TRUTH = {
    "n01751748": 490,
    "n09193705": 361,
    "n02105855": 171,
    "n04263257": 822,
    "n03125729": 297,
    "n01735189": 482,
    "n02346627": 13,
    "n02776631": 704,
    "n03794056": 599,
    "n02328150": 164,
}


@pytest.fixture(scope="module")
def ids_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ids") / "ids.txt"
    file.write_text("".join(f"{name} {number}\n" for name, number in zip(CLASSES, IDS, strict=True)))
    return file


@pytest.fixture(scope="module")
def photographs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The validation photographs without their classes, numbered across them: where each is now -> where it was."""
    folder = tmp_path_factory.mktemp("flat") / "test"
    folder.mkdir()
    found = sorted((data / "val").glob("*/*.jpg"), key=lambda path: (path.name, path.parent.name))
    new = {folder / f"ILSVRC2012_test_{number:08d}.JPEG": path for number, path in enumerate(found, 1)}
    for to, path in new.items():
        shutil.copy(path, to)
    (folder / "readme.txt").write_text("no image")
    return new


def rows(file: Path) -> list[list[int]]:
    return [list(map(int, line.split())) for line in file.read_text().splitlines()]


def test_the_numbers_are_those_of_the_challenge() -> None:
    numbers = imagenet_ids()
    assert sorted(numbers.values()) == list(range(1, 1001))
    assert list(numbers) == sorted(numbers)
    assert {name: numbers[name] for name in GROUND_TRUTH} == GROUND_TRUTH
    assert ids_of(list(GROUND_TRUTH), None) == list(GROUND_TRUTH.values())


@pytest.mark.parametrize("name", ["meta.mat", "meta_clsloc.mat", "kit.tar.gz", "map_clsloc.txt", "two.txt"])
def test_the_kit_says_the_same(name: str, tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed: scripts/environment does it")
    key = "ILSVRC2015_CLSLOC_ID" if "clsloc" in name else "ILSVRC2012_ID"
    listed = [(number, wnid, "words, and more", 0) for wnid, number in imagenet_ids().items()]
    struct = np.array(
        [*listed, (1001, "n00001740", "entity", 3)], dtype=[(k, "O") for k in (key, "WNID", "words", "num_children")]
    )
    mat = io.BytesIO()
    scipy_io.savemat(mat, {"synsets": struct.reshape(-1, 1)})
    file = tmp_path / name
    if name.endswith(".mat"):
        file.write_bytes(mat.getvalue())
    elif name.endswith(".gz"):
        with tarfile.open(file, "w:gz") as kit:
            for member, content in (("meta.mat", mat.getvalue()), ("ILSVRC2012_validation_ground_truth.txt", b"490\n")):
                info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{member}")
                info.size = len(content)
                kit.addfile(info, io.BytesIO(content))
    else:
        words = " some_words 7" if "clsloc" in name else ""
        file.write_text("".join(f"{wnid} {number}{words}\n" for number, wnid, *_ in listed))
    read = read_class_ids(file)
    assert {wnid: read[wnid] for wnid in imagenet_ids()} == imagenet_ids()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apple 1\nbear two\n", r":2: 'bear two' is no class name and its number"),
        ("apple 1\nbear 1\n", ":2: the number is there twice"),
        ("apple 1\napple 2\n", ":2: the class is there twice"),
        ("7\n", ":1: '7' is no class name"),
        ("apple 1\n", "has no number for bear, cat"),
    ],
)
def test_lists_that_cannot_be_used(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        ids_of(CLASSES[:3], tmp_path / "ids.txt")


def test_names_of_several_words(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("mono ok 3\n\npoly\t4\n")
    assert read_class_ids(tmp_path / "ids.txt") == {"mono ok": 3, "poly": 4}


def test_order_is_that_of_the_numbers() -> None:
    assert numeric_order(["a_10.jpg", *(f"x/a_{i}.png" for i in range(1, 10))]) == [*range(1, 10), 0]
    assert numeric_order(["b1.jpg", "b0.jpg"]) == [1, 0]
    assert numeric_order(["0002.jpg", "1.jpg"]) == [1, 0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.jpg", "b1.jpg"], "no number at the end of the name of a.jpg"),
        (["t_1.jpg", "v_2.jpg"], r"images of 2 kinds: t_\.\.\., v_\.\.\."),
        (["t_1.jpg", "t_01.png"], "t_1.jpg and t_01.png have the same number"),
        (["t_1.jpg", "t_4.jpg"], "of the images 1 to 4 2 are missing: 2, 3"),
        (["t_2.jpg"], "of the images 1 to 2 1 is missing: 1"),
        (["t_20260822.jpg", "t_1.jpg"], "20260820 are missing: 2, 3, 4, 5, 6 and 20260815 more"),
    ],
)
def test_an_order_that_would_shift_lines_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        numeric_order(names)


def test_how_many_lines_the_server_wants() -> None:
    assert lines_lacking(["ILSVRC2012_test_00000001.JPEG"] * 3) == (3, 100_000)
    assert lines_lacking(["ILSVRC2012_val_00000001.JPEG"] * 50_000) is None
    assert lines_lacking(["photo1.jpg"]) is None


def test_the_surest_come_first() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.05, 0.2, 0.22, 0.03], [0.5, 0.0, 0.1, 0.3, 0.06, 0.04]])
    assert submission(probabilities, IDS) == "7 12 3 40 1000\n40 3 1000 12 500\n"
    assert submission(probabilities[:, :2], IDS[:2]) == "7 40\n40 7\n"


@pytest.mark.parametrize("protocol", ["single", "12crop"])
def test_counted_by_the_kits_rule_it_is_the_evaluations_error(
    protocol: str, run: Run, data: Path, photographs: dict[Path, Path], ids_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "answers.txt"
    words = ["--protocol", protocol, "--precision", "fp32"]
    answer = CliRunner().invoke(
        app,
        [
            "predict",
            str(run.path),
            str(next(iter(photographs)).parent),
            "--submission",
            str(file),
            "--class-ids",
            str(ids_file),
            *words,
        ],
    )
    assert answer.exit_code == 0, answer.output
    assert "24 lines, and that set has 100,000 images" in answer.stderr
    evaluated = CliRunner().invoke(app, ["evaluate", str(run.path), *words, "--output", str(tmp_path / "e.json"), "--json"])
    result = json.loads(evaluated.stdout)
    truth = [IDS[CLASSES.index(path.parent.name)] for path in photographs.values()]
    lines = rows(file)
    assert [len(line) for line in lines] == [5] * 24
    assert 100 * (1 - sum(own in line for own, line in zip(truth, lines, strict=True)) / 24) == pytest.approx(
        result["top5_error"]
    )
    assert 100 * (1 - sum(own == line[0] for own, line in zip(truth, lines, strict=True)) / 24) == pytest.approx(
        result["top1_error"]
    )
    # Image by image too: the order of the lines is not that of the evaluation.
    table = pandas.read_parquet(tmp_path / "e.parquet").set_index("image")
    answers = pandas.read_parquet(tmp_path / "answers.parquet")
    assert list(answers["image"]) == [path.name for path in photographs] and "label" not in answers
    for path, line, own in zip(photographs.values(), lines, answers["probabilities"], strict=True):
        expected = np.array(table.loc[f"val/{path.parent.name}/{path.name}", "probabilities"])
        assert np.abs(own - expected).max() < 1e-5
        assert line == [IDS[place] for place in np.argsort(-own, kind="stable")[:5]]
    assert not list(tmp_path.glob(".*.parts"))


def test_an_ensemble_of_answers(run: Run, data: Path, photographs: dict[Path, Path], ids_file: Path, tmp_path: Path) -> None:
    folder = str(next(iter(photographs)).parent)
    for name, checkpoint in (("a", "step-00000005"), ("b", "step-00000010")):
        words = ["--submission", str(tmp_path / f"{name}.txt"), "--class-ids", str(ids_file)]
        assert CliRunner().invoke(app, ["predict", str(run.checkpoints / checkpoint), folder, *words]).exit_code == 0
    members = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    words = ["--submission", str(tmp_path / "both.txt"), "--class-ids", str(ids_file), "--weights", "1,3"]
    answer = CliRunner().invoke(app, ["ensemble", *members, *words])
    assert answer.exit_code == 0, answer.output
    one, two = (np.stack(pandas.read_parquet(member)["probabilities"]) for member in members)
    mean = 0.25 * one.astype(np.float64) + 0.75 * two
    assert rows(tmp_path / "both.txt") == [[IDS[place] for place in np.argsort(-row)[:5]] for row in mean]
    assert rows(tmp_path / "both.txt") != rows(tmp_path / "a.txt")
    without = CliRunner().invoke(app, ["ensemble", *members])
    refused_here(without, 3, "has no labels", "--submission FILE")


def test_an_ensemble_of_evaluations_is_put_in_order(
    run: Run, data: Path, photographs: dict[Path, Path], ids_file: Path, tmp_path: Path
) -> None:
    # Class folders put another image first than the numbers do.
    root = tmp_path / "numbered"
    for number, path in enumerate(photographs.values(), 1):
        place = root / "val" / path.parent.name / f"ILSVRC2012_val_{number:08d}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for which in ("ema", "raw"):
        words = ["--data", str(root), "--weights", which, "--output", str(tmp_path / f"{which}.json")]
        assert CliRunner().invoke(app, ["evaluate", str(run.path), *words]).exit_code == 0
    words = ["--submission", str(tmp_path / "both.txt"), "--class-ids", str(ids_file), "--json"]
    answer = CliRunner().invoke(app, ["ensemble", str(tmp_path / "ema.json"), str(tmp_path / "raw.json"), *words])
    assert answer.exit_code == 0, answer.output
    one, two = (pandas.read_parquet(tmp_path / f"{which}.parquet").set_index("image") for which in ("ema", "raw"))
    for number, (path, line) in enumerate(zip(photographs.values(), rows(tmp_path / "both.txt"), strict=True), 1):
        name = f"val/{path.parent.name}/ILSVRC2012_val_{number:08d}.JPEG"
        mean = np.mean([one.loc[name, "probabilities"], two.loc[name, "probabilities"]], axis=0, dtype=np.float64)
        assert line == [IDS[place] for place in np.argsort(-mean)[:5]]
    assert json.loads(answer.stdout)["num_images"] == 24


def refused_here(answer, code: int, *words: str) -> None:
    assert answer.exit_code == code, answer.output
    for word in words:
        assert word in answer.stderr


def test_a_bad_image_is_named_and_the_command_goes_on_when_it_is_mended(
    run: Run, photographs: dict[Path, Path], ids_file: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(next(iter(photographs)).parent, tmp_path / "test"))
    bad = folder / "ILSVRC2012_test_00000024.JPEG"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    file = tmp_path / "answers.txt"
    command = [
        "predict",
        str(run.path),
        str(folder),
        "--submission",
        str(file),
        "--class-ids",
        str(ids_file),
        "--batch-size",
        "5",
    ]
    refused_here(CliRunner().invoke(app, command), 3, f"cannot decode {bad}", "a submission needs a line for every image")
    assert not file.exists()
    bad.write_bytes(whole)
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    # How many were answered when the bad one was met depends on the threads.
    assert re.search(r"resuming: [1-9]\d* of 24 images were answered before", answer.stderr)
    assert len(rows(file)) == 24


def test_wrong_commands(run: Run, photographs: dict[Path, Path], tmp_path: Path) -> None:
    folder, one = next(iter(photographs)).parent, next(iter(photographs))
    file = tmp_path / "answers.txt"
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, code, text in (
        ([folder, "--submission", file], 3, "6 of the network's 6 classes are no synsets of ImageNet: apple, bear"),
        ([one, "--protocol", "144crop"], 2, "--protocol needs --submission FILE"),
        ([one, "--class-ids", file], 2, "--class-ids needs --submission FILE"),
        ([empty], 3, "holds no images"),
        (["nowhere"], 3, "no such image file: nowhere"),
        ([*list(photographs)[1:], "--submission", file], 3, "of the images 1 to 24 1 is missing: 1"),
        ([folder, "--submission", file, "--protocol", "10crop", "--scales", "10,x"], 2, "--scales 10,x"),
        ([folder, "--submission", file, "--scales", "100"], 2, "--scales does not apply to the recipe's single crop"),
    ):
        refused_here(CliRunner().invoke(app, ["predict", str(run.path), *map(str, words)]), code, text)
    assert not file.exists()


def test_a_folder_on_the_screen(run: Run, photographs: dict[Path, Path]) -> None:
    folder = next(iter(photographs)).parent
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(folder), "--json"])
    assert [item["image"] for item in json.loads(answer.stdout)["predictions"]] == [str(path) for path in photographs]
