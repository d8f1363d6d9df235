"""The failure that the paper describes, made on purpose: residuals that are not scaled down, at a rate that scaled ones stand."""

from pathlib import Path

import pytest

from tests.commands import TINY, inceptionctl, refused, rows, sets
from tests.data.conftest import fill

STEPS = 120
SETTINGS = sets(
    *TINY,
    "model.name=inception_resnet_v2",
    "model.num_classes=2",
    "model.dropout=0",
    "train.global_batch_size=16",
    "train.micro_batch_size=16",
    "train.log_every_steps=5",
    f"train.max_steps={STEPS}",
    "train.epochs=200",
    # Unscaled it died before step 90 with this seed and 2, whichever way pixels were rounded; with seed 0 it depends on that.
    "train.seed=1",
    "schedule.name=constant",
    "schedule.base_lr=0.2",
    "optim.clip_global_norm=0",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=5",
    "checkpoint.keep_last=100",
    "evaluate.every_epochs=null",
    "data.num_threads=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("death")
    for split, count in (("train", 32), ("val", 4)):
        for label in range(2):
            fill(folder / "data" / split / f"class_{label}", count, seed=100 * label + (50 if split == "val" else 0))
    return folder


def train(folder: Path, run: str, *settings: str) -> object:
    command = ("train", "inception_v4", *SETTINGS, *sets("data.root=data", *settings), "--cpu-ranks", "1", "--output", run)
    return inceptionctl(*command, cwd=folder)


@pytest.mark.slow
def test_a_network_made_to_die_is_stopped_and_its_last_good_checkpoint_kept(folder: Path) -> None:
    result = train(folder, "dead", "model.residual_scale=1.0")
    refused(
        result,
        6,
        "of the values before the average pool are zero: the network has died at step",
        "(block blocks_",
        "0.1 and 0.3",
    )
    seen = rows(folder / "dead")
    assert [row["zero_share"] > 0.999 for row in seen[-4:]] == [False, True, True, True]
    last_good = seen[-4]["step"]
    assert f"the last good checkpoint is dead/checkpoints/step-{last_good:08d}" in result.stderr
    assert max(path.name for path in (folder / "dead" / "checkpoints").glob("step-*")) == f"step-{last_good:08d}"
    assert "nothing is saved while that lasts" in result.stderr


@pytest.mark.slow
def test_the_same_training_with_scaled_residuals_is_left_alone(folder: Path) -> None:
    result = train(folder, "alive")
    assert result.returncode == 0, result.stderr
    assert len(rows(folder / "alive")) == STEPS // 5 and "average pool" not in result.stderr


@pytest.mark.slow
def test_the_watch_may_only_look_on(folder: Path) -> None:
    result = train(folder, "watched", "model.residual_scale=1.0", "health.stop_when_dead=false")
    assert result.returncode == 0, result.stderr
    dead = [row["zero_share"] > 0.999 for row in rows(folder / "watched")]
    assert len(dead) == STEPS // 5 and any(all(dead[i : i + 3]) for i in range(len(dead) - 2))
