"""Training from shards gives the loss curve of the folder that they were packed from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import TINY, inceptionctl, rows, sets

pytestmark = pytest.mark.slow


def losses(root: Path, run: Path, *settings: str) -> list[tuple[float, ...]]:
    options = sets(*TINY, f"data.root={root}", "train.max_steps=4", "train.epochs=4", "evaluate.every_epochs=2", *settings)
    done = inceptionctl(
        "train", "inception_v4", "--cpu-ranks", "1", "--output", run, *options, cwd=run.parent, OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    trained = [(row["loss"], row["grad_norm"]) for row in rows(run)]
    return trained + [(row["loss"], row["top1_error"]) for row in rows(run, "evaluate")]


@pytest.fixture(scope="module")
def of_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, ...]]]:
    """A run on the folder, and its curve."""
    run = tmp_path_factory.mktemp("runs") / "folder"
    return run, losses(root, run, "model.num_classes=3")


@pytest.mark.slow
def test_loss_curves_are_the_same(root: Path, of_folder: tuple[Path, list[tuple[float, ...]]], tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    done = inceptionctl("data", "pack", root, packed, "--shard-size", "60kB")
    assert done.returncode == 0, done.stderr
    run, curve = of_folder
    assert len(curve) >= 5 and losses(packed, tmp_path / "shards", "model.num_classes=3") == curve
    evaluated = [inceptionctl("evaluate", where, "--json", cwd=tmp_path) for where in (run, tmp_path / "shards")]
    assert evaluated[1].returncode == 0, evaluated[1].stderr
    one, other = (json.loads(done.stdout) for done in evaluated)
    assert (one["loss"], one["confusion"]) == (other["loss"], other["confusion"])
    exported = inceptionctl("export", tmp_path / "shards", "--format", "safetensors", cwd=tmp_path)
    assert exported.returncode == 0 and "pseudo-random" not in exported.stdout + exported.stderr


def test_a_list_trains_too(root: Path, of_folder: tuple[Path, list[tuple[float, ...]]], tmp_path: Path) -> None:
    for split in ("train", "val"):
        paths = sorted((root / split).glob("*/*"))
        lines = ["path,label", *(f"{path},{path.parent.name}" for path in paths)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    lists = (f"data.train_csv={tmp_path}/train.csv", f"data.val_csv={tmp_path}/val.csv", "model.num_classes=3")
    assert losses(tmp_path / "nowhere", tmp_path / "run", *lists) == of_folder[1]
