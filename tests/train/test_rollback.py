"""Trainings that really diverge, at a batch of black pictures, go back and on without it."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import Sampler
from inceptionctl.errors import CheckpointError
from inceptionctl.recipe import load_recipe
from inceptionctl.run import create_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress
from inceptionctl.train.rollback import known_rollbacks
from tests.commands import TINY, inceptionctl, kill_all, refused, rows, sets, started
from tests.data.conftest import fill

STEPS, BATCH, IMAGES = 16, 8, 160
WATCHES = ("time", "images_per_second", "data_wait", "peak_memory_bytes", "torch_peak_memory_bytes")
# A batch of nothing but black has no variance, and with this epsilon the gradient of its norms overflows; others never notice.
SETTINGS = sets(
    *TINY,
    "train.micro_batch_size=4",
    "model.num_classes=2",
    "model.dropout=0",
    "model.batch_norm_eps=1e-30",
    "data.augment.brightness=0",
    "data.augment.saturation=0",
    "train.epochs=100",
    f"train.max_steps={STEPS}",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=4",
    "evaluate.every_epochs=null",
    "schedule.base_lr=1e-5",
    # ZeRO takes norms in parts, and this network makes 0.1 of the rounding within eight steps. Without them every number of ranks
    # rounds alike.
    "optim.clip_global_norm=0",
    "data.num_threads=1",
    # ZeRO keeps no channels_last weights, and in the other layout convolutions round otherwise.
    "train.channels_last=false",
)


def poisoned(root: Path, batches: tuple[int, ...]) -> Path:
    """A data set in which the images of these batches of the stream are black."""
    for split, count in (("train", IMAGES // 2), ("val", 3)):
        for label in range(2):
            fill(root / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    images = open_split(root, "train")
    for batch in batches:
        for i in Sampler(0, IMAGES).at(batch * BATCH, BATCH)[1]:
            Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(root / "train" / images.name(i))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Batch 13 comes up again two steps sooner, when 8 and 9 are skipped.
    return poisoned(tmp_path_factory.mktemp("data"), batches=(9, 13))


def command(data: Path, output: Path, *settings: str, ranks: int = 2) -> list[str]:
    chosen = sets(f"data.root={data}", "train.on_divergence=rollback", *settings)
    return ["train", "inception_v4", *SETTINGS, *chosen, "--cpu-ranks", str(ranks), "--output", str(output)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that has gone back twice and come to its end."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = inceptionctl(*command(data, run))
    assert result.returncode == 0, result.stderr
    assert "not finite at step 10" in result.stderr and "not finite at step 12" in result.stderr
    assert "without batches 10 to 13 of the stream (rollback 2 of at most 3)" in result.stderr
    return run


def gone_back(run: Path) -> list[tuple[int, int, int, int]]:
    """(step, to_step, first_batch, last_batch) of each rollback, the same in rollbacks.json and in the last checkpoint."""
    noted = json.loads((run / "rollbacks.json").read_text())
    assert json.loads((run / "checkpoints" / f"step-{STEPS:08d}" / "progress.json").read_text())["rollbacks"] == noted
    return [(each["step"], each["to_step"], each["first_batch"], each["last_batch"]) for each in noted]


def test_a_diverged_run_goes_back_skips_and_makes_all_its_steps(whole: Path) -> None:
    assert gone_back(whole) == [(10, 8, 8, 9), (12, 8, 10, 13)]
    seen = rows(whole)
    assert [row["step"] for row in seen] == list(range(1, STEPS + 1))  # none repeated, none of the diverged ones left
    assert all(isinstance(row["loss"], float) for row in seen)
    assert [(row["rollbacks"], row["skipped_batches"]) for row in seen] == [(0, 0)] * 8 + [(2, 6)] * 8
    shown = inceptionctl("runs", "show", whole)
    assert "Rollbacks" in shown.stdout and "10 to 13" in shown.stdout, shown.stdout
    shown = inceptionctl("runs", "show", whole, "--json")
    assert [entry["to_step"] for entry in json.loads(shown.stdout)["rollbacks"]] == [8, 8]


@pytest.mark.slow
def test_given_up_killed_while_going_back_and_resumed_it_ends_the_same_to_the_bit(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    once = inceptionctl(*command(data, run, "train.max_rollbacks=1"))
    refused(once, 6, "not finite at step 12", "gone back 1 times", "train.max_rollbacks is 1", "step-00000008")
    with started(*command(data, run), cwd=tmp_path, log=log) as process:
        while json.loads((run / "rollbacks.json").read_text())[-1]["step"] != 12:
            assert process.poll() is None, log.read_text()
            time.sleep(0.001)
        kill_all(process)
    result = inceptionctl(*command(data, run))
    assert result.returncode == 0, result.stderr
    assert "skips batches 8 to 9" in result.stderr and "not finite" not in result.stderr
    assert gone_back(run) == gone_back(whole)
    for name in files.FILES[:3]:
        ours, theirs = (each / "checkpoints" / f"step-{STEPS:08d}" / name for each in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    numbers = [
        [{key: value for key, value in row.items() if key not in WATCHES} for row in rows(each)] for each in (run, whole)
    ]
    # Of the rows before the second rollback each tells how many there had been when it was written.
    assert numbers[0][8:] == numbers[1][8:] and [row["loss"] for row in numbers[0]] == [row["loss"] for row in numbers[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 1)])
def test_other_ranks_and_zero_see_the_same_stream(ranks: int, stage: int, whole: Path, data: Path, tmp_path: Path) -> None:
    result = inceptionctl(*command(data, tmp_path / "run", f"train.zero_stage={stage}", ranks=ranks))
    assert result.returncode == 0, result.stderr
    assert gone_back(tmp_path / "run") == gone_back(whole)
    one, two = ([row["loss"] for row in rows(run)] for run in (tmp_path / "run", whole))
    assert np.abs(np.subtract(one, two)).max() < 1e-4 and np.isfinite(one).all()
    assert np.std(two) > 0.05, "each step's images must show in its loss"


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(data: Path, tmp_path: Path) -> None:
    result = inceptionctl(*command(data, tmp_path / "run", "checkpoint.every_steps=null", ranks=1))
    refused(result, 6, "not finite at step 10", "no checkpoint to go back to yet", "checkpoint.every_steps")


def test_weights_that_are_not_finite_are_not_saved(data: Path, tmp_path: Path) -> None:
    settings = ("schedule.base_lr=1e38", "checkpoint.every_steps=1", "train.on_divergence=stop")
    result = inceptionctl(*command(data, tmp_path / "run", *settings, ranks=1))
    refused(result, 6, "the step has left weights or statistics that are not finite at step 1", "there is no checkpoint yet")
    assert isinstance(rows(tmp_path / "run")[0]["loss"], float)
    assert not files.list_checkpoints(tmp_path / "run" / "checkpoints")


ENTRY = {"step": 10, "to_step": 8, "first_batch": 8, "last_batch": 9, "reason": "loss nan"}


def test_the_file_of_a_run_knows_of_rollbacks_that_its_checkpoints_do_not(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    run = create_run(tmp_path / "run", recipe)
    later = {**ENTRY, "step": 12, "first_batch": 10, "last_batch": 13}
    saved = Progress(step=8, rollbacks=[ENTRY], recipe=recipe.resolved())
    assert known_rollbacks(run, Progress(), recipe) == []
    assert known_rollbacks(run, saved, recipe) == [ENTRY]
    run.rollbacks_file.write_text(json.dumps([ENTRY, later]))
    assert known_rollbacks(run, saved, recipe) == [ENTRY, later]


def test_another_stream_skips_nothing(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    saved = Progress(step=8, rollbacks=[ENTRY], recipe=recipe.resolved())
    run = create_run(tmp_path / "run", recipe)
    for key in ("seed", "global_batch_size"):
        other = recipe.model_copy(update={"train": recipe.train.model_copy(update={key: 77})})
        assert known_rollbacks(run, saved, other) == []


@pytest.mark.parametrize("content", ["[", "{}", '[{"step": 10}]', "3", '[{"step": 1, "to_step": "0"}]', "[3]"])
def test_a_file_of_rollbacks_that_was_broken_is_refused(content: str, tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    run = create_run(tmp_path / "run", recipe)
    run.rollbacks_file.write_text(content)
    with pytest.raises(CheckpointError, match="is no list of rollbacks"):
        known_rollbacks(run, Progress(), recipe)
