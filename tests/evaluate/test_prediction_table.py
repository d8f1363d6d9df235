"""`predict --output`: a row per image, at any depth, in three formats, on ranks, after an interruption, and past images that do not decode."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.sources.class_lists import imagenet_ids, imagenet_words
from inceptionctl.evaluate.evaluation import Work
from inceptionctl.evaluate.inputs import folder_of
from inceptionctl.evaluate.prediction_table import Table, write_table
from inceptionctl.evaluate.resumable import Ranks, answer_all
from inceptionctl.evaluate.subject import subject_of
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.evaluate.unlabelled import images_of
from inceptionctl.protocols import make_protocol
from inceptionctl.run import Run
from tests.commands import inceptionctl
from tests.evaluate.making import CLASSES, INPUT_PX
from tests.evaluate.test_resumable import CPU


@pytest.fixture(scope="module")
def photos(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in folders of folders; two files that do not decode, a text, and a link upwards."""
    root = tmp_path_factory.mktemp("photos") / "trip"
    shutil.copytree(data / "val", root / "days" / "two")
    for name in ("apple", "bear"):
        shutil.move(root / "days" / "two" / name, root / name)
    whole = (root / "bear" / "0.jpg").read_bytes()
    (root / "bear" / "0a cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "zzz.png").write_text("not an image")
    (root / ".hidden.jpg").write_bytes(whole)
    (root / "notes.txt").write_text("no image")
    (root / "days" / "up").symlink_to(root, target_is_directory=True)
    return root


BAD = ("bear/0a cut.jpg", "zzz.png")


def predicted(run: Run, photos: Path, output: Path, *words: str, code: int = 3) -> str:
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(photos), "--output", str(output), *words])
    assert answer.exit_code == code, answer.output
    return answer.output


def test_images_at_any_depth_in_the_order_of_their_names(photos: Path) -> None:
    found = [str(path.relative_to(photos)) for path in images_of([photos])]
    assert found == sorted(found) and len(found) == 26
    assert found[0] == "apple/0.jpg" and "days/two/cat/3.jpg" in found and set(BAD) <= set(found)


def test_three_formats_say_the_same(run: Run, photos: Path, data: Path, tmp_path: Path) -> None:
    words = ("--top-k", "3", "--precision", "fp32")
    said = predicted(run, photos, tmp_path / "a.csv", *words)
    assert "cannot decode 2 images" in said and f"{photos / BAD[0]}: " in said and "the file is no image" in said
    for name in ("a.parquet", "a.JSONL"):
        predicted(run, photos, tmp_path / name, *words)
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    ranks = [f"{kind}_{rank}" for rank in (1, 2, 3) for kind in ("class", "probability")]
    assert list(table[0]) == ["path", *ranks, "error"]
    lines = [json.loads(line) for line in (tmp_path / "a.JSONL").read_text().splitlines()]
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(frame.columns) == list(lines[0]) == ["path", "classes", "probabilities", "error"]
    assert [row["path"] for row in table] == [line["path"] for line in lines] == list(frame["path"])
    assert [row["path"] for row in table] == [str(path) for path in images_of([photos])]
    for row, line, (_, cells) in zip(table, lines, frame.iterrows(), strict=True):
        assert list(cells["classes"]) == line["classes"] == [row[f"class_{rank}"] for rank in (1, 2, 3) if row["class_1"]]
        assert np.array_equal(np.float32(line["probabilities"]), cells["probabilities"])
        assert (row["error"] or None) == line["error"] == (cells["error"] if row["error"] else None)
    assert [str(Path(row["path"]).relative_to(photos)) for row in table if row["error"]] == list(BAD)
    # The evaluation's own probabilities of the same photographs.
    words = ("evaluate", str(run.path), "--precision", "fp32", "--output", str(tmp_path / "e.json"))
    assert CliRunner().invoke(app, [*words]).exit_code == 0
    expected = pandas.read_parquet(tmp_path / "e.parquet").set_index("image")["probabilities"]
    for line in lines:
        if line["error"]:
            continue
        own = expected[f"val/{'/'.join(Path(line['path']).parts[-2:])}"]
        best = np.argsort(-own)[:3]
        assert line["classes"] == [CLASSES[place] for place in best]
        assert np.abs(own[best] - line["probabilities"]).max() < 1e-5
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("protocol", [None, "10crop"])
def test_rows_stay_in_place_past_bad_images_and_an_interruption(
    protocol: str | None, run: Run, photos: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "all bad"
    bad.mkdir()
    for number in range(9):  # whole batches of these
        (bad / f"{number}.jpg").write_text("not an image")
    files = images_of([photos / "apple", bad, photos / "bear", bad])
    subject = subject_of(load_trained(run.path, "ema", CPU), "fp32", CPU)
    how = make_protocol(protocol, INPUT_PX, None) if protocol else None
    loading = LoaderSettings(num_threads=2, seconds_to_read=60.0)
    work = Work(subject, folder_of(files), how, 4, loading, bad=BadImages(len(files)))

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        answer_all(work, tmp_path / "parts", Ranks(), on_progress=stop, say=print)
    said: list[str] = []
    again = replace(work, bad=BadImages(len(files)))  # a new process knows nothing of what was bad
    answers = answer_all(again, tmp_path / "parts", Ranks(), on_progress=lambda done, total: None, say=said.append)
    assert answers and said and "were answered before" in said[0]
    lost = np.isnan(answers.probabilities).any(1).tolist()
    assert lost == [str(bad) in str(file) or file.name == "0a cut.jpg" for file in files]
    reasons = answers.parts.reasons()
    assert set(reasons) == {str(file) for file, gone in zip(files, lost, strict=True) if gone}
    # Each good image has its own answer: that of the same batches without the bad ones.
    good = [file for file, gone in zip(files, lost, strict=True) if not gone]
    alone = answer_all(
        replace(work, images=folder_of(good), bad=None), tmp_path / "alone", Ranks(), on_progress=lambda *_: None, say=print
    )
    assert alone and np.abs(answers.probabilities[~np.array(lost)] - alone.probabilities).max() < 1e-5
    assert len(np.unique(alone.probabilities[:, 0].round(4))) > 4


def test_two_ranks_write_the_same_file(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("--precision", "fp32", "--batch-size", "5")
    predicted(run, photos, tmp_path / "one.parquet", *words)
    done = inceptionctl("predict", run.path, photos, "--output", tmp_path / "two.parquet", *words, "--cpu-ranks", "2")
    assert done.returncode == 3, done.stderr
    assert "cannot decode 2 images" in done.stderr and "Traceback" not in done.stderr
    one, two = (pandas.read_parquet(tmp_path / name) for name in ("one.parquet", "two.parquet"))
    pandas.testing.assert_frame_equal(one, two, check_exact=True)
    assert not list(tmp_path.glob(".*"))


def test_good_images_only_and_json(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ["predict", str(run.path), str(photos / "apple"), str(photos / "apple" / "0.jpg")]
    answer = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "new" / "a.csv"), "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    # An image that is named twice has one row.
    assert (told["images"], told["errors"], told["output"]) == (4, 0, str(tmp_path / "new" / "a.csv"))
    assert len((tmp_path / "new" / "a.csv").read_text().splitlines()) == 5


def test_top_k_on_the_screen(run: Run, photos: Path) -> None:
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(photos / "apple" / "0.jpg"), "--top-k", "2", "--json"])
    assert len(json.loads(answer.stdout)["predictions"][0]["classes"]) == 2


def test_words_of_imagenet_come_along(tmp_path: Path) -> None:
    synsets = list(imagenet_ids())
    words = imagenet_words(synsets)
    assert words["n01440764"] == "tench, Tinca tinca" and words["n15075141"].startswith("toilet tissue")
    assert words["n02123045"].startswith("tabby") and len(words) == 1000
    assert imagenet_words(["n01440764", "cat"]) == {}
    probabilities = np.zeros((2, 1000), dtype=np.float32)
    probabilities[0, [5, 2]] = (0.75, 0.25)
    probabilities[1] = np.nan
    table = Table(["a.jpg", os.fsdecode(b"b.jpg")], probabilities, [None, None], synsets, words, 2)
    for name in ("a.csv", "a.jsonl"):
        write_table(tmp_path / name, table, {})  # type: ignore[typeddict-item]
    with (tmp_path / "a.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["class_1"], first["words_1"], first["probability_1"]) == (synsets[5], words[synsets[5]], "0.75")
    assert second["class_1"] == "" and second["error"] == "the network's answer is not finite"
    line = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert line["words"] == [words[synsets[5]], words[synsets[2]]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--output", "a.xlsx"], 2, "unknown format"),
        (["--output", "a.csv", "--submission", "a.txt"], 2, "--output and --submission"),
        (["--output", "a.csv", "--class-ids", "b"], 2, "--class-ids needs --submission FILE"),
        (["--submission", "a.txt", "--top-k", "3"], 2, "--top-k does not apply to --submission"),
        (["--gpus", "1"], 2, "--gpus needs --submission FILE or --output FILE"),
    ],
)
def test_wrong_commands(words: list[str], code: int, said: str, run: Run, photos: Path) -> None:
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(photos / "apple"), *words])
    assert answer.exit_code == code and said in answer.stderr, answer.output
