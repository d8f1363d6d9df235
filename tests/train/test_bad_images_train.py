"""A training with unusable images in every batch: it goes on, says so once, counts them, and stops only above the limit."""

import json
from pathlib import Path

import pytest

from inceptionctl.data.dataset import open_split
from tests.commands import TINY, inceptionctl, refused, rows, sets
from tests.data.conftest import fill

NUM_BAD = 6  # of 24; a batch has eight
# Two images of one pixel a channel make batch norm chaotic: the last bit of a sum over ranks would decide.
CALM = ("model.input_px=107", "train.micro_batch_size=4")
SETTINGS = sets(
    *TINY,
    *CALM,
    "model.num_classes=2",
    "model.dropout=0",
    "train.ema_decay=0.1",
    "checkpoint.every_steps=3",
    "schedule.base_lr=0.01",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bad in many ways: each fourth training image, and one for validation."""
    root = tmp_path_factory.mktemp("bad")
    for i, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        fill(root / name, 12 if i < 2 else 3, seed=100 * i)
    images = open_split(root, "train")
    for n in range(NUM_BAD):
        file = Path(images.path(4 * n).decode())
        if n % 3 == 0:
            file.write_bytes(file.read_bytes()[:200])
        elif n % 3 == 1:
            file.write_bytes(b"")
        else:
            file.unlink()
            file.symlink_to("nowhere")
    (root / "val/a/001.jpg").write_text("no image")
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six steps, two epochs: by one rank, by two, and by one that stops after three and goes on."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["inception_v4", *SETTINGS, *sets(f"data.root={data}", "train.epochs=2")]
    for name, ranks, more in (("one", "1", []), ("two", "2", []), ("cut", "1", sets("train.max_steps=3")), ("cut", "1", [])):
        result = inceptionctl("train", *common, *more, "--cpu-ranks", ranks, "--output", name, cwd=folder)
        assert result.returncode == 0, result.stderr
    return {name: folder / name for name in ("one", "two", "cut")}


@pytest.mark.parametrize("name", ["one", "two", "cut"])
def test_each_is_named_once_and_counted(runs: dict[str, Path], data: Path, name: str) -> None:
    log = (runs[name] / "log.txt").read_text()
    found = {item["image"]: item["reason"] for item in json.loads((runs[name] / "bad_images.json").read_text())}
    assert len(found) == NUM_BAD + 1
    for image, reason in found.items():
        assert log.count(f"an image is left out: {image}: {reason}") == log.count(image) == 1
    assert found[str(data / "val/a/001.jpg")].startswith("the file is no image")
    counts = [row["bad_images"] for row in rows(runs[name])]
    assert len(counts) == 6 and counts == sorted(counts) and NUM_BAD <= counts[-1] <= NUM_BAD + 1
    assert {row["num_images"] for row in rows(runs[name], "evaluate")} == {5}


def test_one_rank_and_two_see_the_same(runs: dict[str, Path]) -> None:
    one, two = ([row["loss"] for row in rows(runs[name])] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)


def test_a_resumed_run_fills_the_places_in_the_same_way(runs: dict[str, Path]) -> None:
    for name in ("model", "ema", "optimizer"):
        whole, cut = (runs[run] / f"checkpoints/step-00000006/{name}.safetensors" for run in ("one", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), name


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_more_than_the_limit_ends_all_ranks(data: Path, tmp_path: Path, ranks: str) -> None:
    settings = sets(f"data.root={data}", "data.max_bad_images=2")
    result = inceptionctl("train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", ranks, "--output", "run", cwd=tmp_path)
    refused(result, 3, "images cannot be used, and data.max_bad_images is 2", "inceptionctl data check", "train/")
