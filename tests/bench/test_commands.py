"""`inceptionctl bench` as a user types it: real JPEGs, the fields of the result, and what is refused. Nothing here is a timing."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import photo

STAGES = ["read", "decode", "resize", "colour", "all"]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jpegs")
    for i in range(9):
        (folder / f"{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(photo(i, 90 + i, 110)).save(folder / f"{i % 2}" / f"{i}.jpg")
    return folder


def test_every_stage_and_peer_is_measured(jpegs: Path, tmp_path: Path) -> None:
    arguments = ("--data", jpegs, "--images", "9", "--repeats", "2", "--threads", "2", "--output", tmp_path / "a.json")
    done = inceptionctl("bench", "data", "quickstart", *sets(*TINY), *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    by_name: dict[str, dict[str, dict[str, float]]] = {}
    for figure in result["figures"]:
        by_name.setdefault(figure["name"], {})[figure["unit"]] = figure
        assert figure["n"] == len(figure["values"]) == 2
        assert 0.0 < figure["low"] <= figure["median"] <= figure["high"]
    assert [*by_name][:7] == [*STAGES, "Pillow loader", "libjpeg-turbo"]
    assert [*by_name][7:] == ["all / resize", "all / colour", "decode / libjpeg-turbo", "all / Pillow loader"]
    for name in [*STAGES, "Pillow loader"]:
        assert [*by_name[name]] == ["images/s", "images/CPU s"]
    ratio, one, other = by_name["all / resize"]["ratio of images/s"], by_name["all"]["images/s"], by_name["resize"]["images/s"]
    assert ratio["values"] == pytest.approx(np.divide(one["values"], other["values"]))
    assert result["bench"] == "data" and result["recipe"] == "quickstart" and result["left_out"] == {}
    assert result["threads"] == 2 and result["images"] == 9 and result["decode"] == "cpu"
    assert {"cpu", "cores", "memory_bytes"} <= result["hardware"].keys()
    assert {"python", "torch", "nvidia-dali-cuda130", "pillow"} <= result["versions"].keys()
    assert "torch DataLoader with Pillow" in done.stdout and "images/CPU s" in done.stdout


def test_the_recipes_own_images_and_a_peer_left_out(root: Path, tmp_path: Path) -> None:
    # Without a simplejpeg to import, as where the extra is not installed.
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('hidden by a test')")
    settings = sets(f"data.root={root}", "data.augment.contrast=0.5", 'data.augment.resize_filters=["bicubic", "area"]', *TINY)
    arguments = ("--images", "12", "--repeats", "1", "--json")
    done = inceptionctl("bench", "data", "quickstart", *settings, *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["left_out"] == {"libjpeg-turbo": "simplejpeg is not installed: pip install 'inceptionctl[bench]'"}
    assert not [figure for figure in result["figures"] if "libjpeg-turbo" in figure["name"]]
    assert {"all", "Pillow loader"} <= {figure["name"] for figure in result["figures"]}


def test_what_cannot_be_measured_is_refused_in_words(jpegs: Path, tmp_path: Path) -> None:
    def bench(*arguments: str | Path) -> object:
        return inceptionctl("bench", "data", *arguments)

    refused(bench("quickstart", "--data", jpegs, "--images", "10", *sets(*TINY)), 3, "9 images", "10", "--images 9")
    refused(bench("quickstart", "--data", jpegs, "--images", "1", *sets(*TINY)), 2, "1 image cannot fill a batch of 2")
    refused(bench("quickstart", "--data", tmp_path / "gone"), 3, "gone", "is no folder")
    refused(bench("quickstart", "--data", tmp_path), 3, "holds no images")
    refused(bench("quickstart", *sets(f"data.root={tmp_path / 'gone'}")), 3, "gone does not exist")
    refused(bench("no_such_recipe"), 2, "no_such_recipe")
    refused(bench("quickstart", "--data", jpegs, "--output", tmp_path / "gone" / "a.json"), 4, "cannot write")


def test_photographs_are_made_like_imagenets(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(photo(1, 900, 800)).save(source / "a.png")
    Image.fromarray(photo(2, 500, 375)).save(source / "b.jpg")
    done = inceptionctl("bench", "photographs", source, tmp_path / "made", "--images", "3")
    assert done.returncode == 0 and f"--data {tmp_path / 'made'}" in done.stderr
    files = sorted((tmp_path / "made").iterdir())
    assert len(files) == 3
    for file in files:
        with Image.open(file) as image:
            assert image.size == (500, 375) and image.format == "JPEG"
        assert 20_000 < file.stat().st_size <= 110_000
    refused(inceptionctl("bench", "photographs", source, tmp_path / "made"), 3, "made exists already")
    Image.fromarray(photo(3, 499, 800)).save(source / "c.jpg")
    refused(inceptionctl("bench", "photographs", source, tmp_path / "more"), 3, "c.jpg has 499 x 800 pixels")
    (source / "c.jpg").write_text("no image")
    refused(inceptionctl("bench", "photographs", source, tmp_path / "most"), 3, "cannot decode", "c.jpg")


def test_photographs_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    Image.fromarray(photo(1, 400, 380)).save(tmp_path / "source" / "a.png")
    made = ("bench", "photographs", tmp_path / "source", tmp_path / "made", "--images", "1", "--size")
    assert inceptionctl(*made, "375x375").returncode == 0
    with Image.open(tmp_path / "made" / "00000.jpg") as image:
        assert image.size == (375, 375)
    refused(inceptionctl(*made, "375"), 2, "--size 375", "375x375")


def test_an_evaluation_is_measured_beside_single_passes(jpegs: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(1, 64, 64)).save(jpegs / "square.jpg")
    few = ("--data", jpegs, "--images", "1", "--batch-sizes", "1", "--repeats", "1")
    narrow = ("quickstart", *sets(*TINY), *few)
    done = inceptionctl("bench", "evaluate", *narrow, "--protocol", "12crop", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = {figure["name"] for figure in result["figures"] if figure["unit"] == "s/image"}
    assert names == {f"{way}, {kind}" for way in ("12crop", "12 single passes") for kind in ("square", "other")}
    ratios = [figure for figure in result["figures"] if figure["unit"] == "ratio of s/image"]
    assert {figure["name"] for figure in ratios} == {
        f"12 single passes, {kind} / 12crop, {kind}" for kind in ("square", "other")
    }
    assert result["images"] == {"square": 1, "other": 1} and result["batch_sizes"]["12crop"] == 1
    assert result["largest_difference"] < 1e-5
    refused(inceptionctl("bench", "evaluate", *narrow, "--protocol", "13crop"), 2, "no protocol 13crop", "144crop")
    refused(inceptionctl("bench", "evaluate", *narrow, "--batch-sizes", "2,x"), 2, "--batch-sizes 2,x")
    refused(inceptionctl("bench", "evaluate", tmp_path, *few), 5, str(tmp_path))


def test_a_made_up_list_is_opened_by_several_processes() -> None:
    done = inceptionctl("bench", "lists", "--images", "10000", "--classes", "300", "--ranks", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {figure["name"]: (figure["unit"], figure["n"]) for figure in result["figures"]} == {
        "open": ("s", 2),
        "first order": ("s", 2),
        "a path": ("us", 2),
        "memory": ("MB", 2),
        "memory of all": ("MB", 1),
    }
    assert (result["images"], result["classes"], result["ranks"]) == (10_000, 300, 2)
    assert inceptionctl("bench", "lists", "--images", "9999").returncode == 2


def test_what_a_save_holds_up_is_measured(tmp_path: Path) -> None:
    arguments = ("--micro-batch-size", "2", "--repeats", "1", "--on", tmp_path, "--json")
    done = inceptionctl("bench", "checkpoint", "quickstart", *sets("model.width=0.125", "model.input_px=75"), *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert list(figures)[:4] == ["step", "held up, foreground", "held up, background", "step while one is written"]
    assert all(figure["n"] == 1 and figure["low"] > 0 for figure in figures.values())
    assert result["checkpoint_bytes"] > 4 * 4 * 500_000  # weights, averages and two states of fp32
    assert list(tmp_path.iterdir()) == []
    refused(inceptionctl("bench", "checkpoint", "quickstart", "--on", tmp_path / "none"), 4, "no folder")


@pytest.mark.parametrize("bench", ["step", "train", "checkpoint"])
def test_steps_that_cannot_be_trained_are_refused_beforehand(bench: str) -> None:
    def with_(*words: str) -> object:
        return inceptionctl("bench", bench, "quickstart", *sets("model.width=0.125", "model.input_px=75"), *words)

    one = ("inception_v4 at 75 px would normalise single values", "hint: give --micro-batch-size 2, the smallest that works")
    refused(with_("--micro-batch-size", "1"), 2, *one)
    refused(with_("--images", "1"), 2, *one)  # its name in earlier versions
    refused(with_(*sets("train.micro_batch_size=1")), 2, *one)
    refused(with_(*sets("model.freeze=[nope]")), 2, "the network has no block 'nope'")


def test_starts_that_would_be_refused_are_refused_beforehand(root: Path) -> None:
    settings = sets(*TINY, f"data.root={root}", "model.num_classes=3", "train.micro_batch_size=1")
    refused(
        inceptionctl("bench", "start", "quickstart", *settings), 2, "train.micro_batch_size: with micro batches of one image"
    )
