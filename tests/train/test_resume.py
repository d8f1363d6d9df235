"""A killed run goes on at the very next sample: its end equals, bit for bit, that of a run never stopped. Real processes."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands import TINY, inceptionctl, kill_all, refused, rows, sets, started, wait_for_step
from tests.data.conftest import two_classes

STEPS = 40
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
# 29 images and batches of 8: no epoch ends on a step; checkpoints every 5 steps lie in mid-epoch.
SETTINGS = sets(
    *TINY,
    "model.num_classes=2",
    "train.epochs=100",
    f"train.max_steps={STEPS}",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=5",
    "evaluate.every_epochs=null",
    "schedule.base_lr=0.01",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_classes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run of two ranks that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    result = inceptionctl(
        "train", "inception_v4", *SETTINGS, *sets(f"data.root={data}"), "--cpu-ranks", "2", "--output", "run", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_kill_9_of_all_ranks_in_mid_epoch_changes_nothing(whole: Path, data: Path, tmp_path: Path) -> None:
    command = ("train", "inception_v4", *SETTINGS, *sets(f"data.root={data}"), "--cpu-ranks", "2", "--output", "run")
    run, log = tmp_path / "run", tmp_path / "log"
    for step in (8, 23):
        with started(*command, cwd=tmp_path, log=log) as process:
            wait_for_step(run, step, process, log)
            kill_all(process)
        assert rows(run)[-1]["step"] < STEPS
    result = inceptionctl(*command, "--resume", "auto", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stderr
    for name in FILES:
        ours, theirs = (path / "checkpoints" / f"step-{STEPS:08d}" / name for path in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    keys = ("step", "loss", "learning_rate", "grad_norm", "clipped_share")
    assert [[row[key] for key in keys] for row in rows(run)] == [[row[key] for key in keys] for row in rows(whole)]
    assert 0.0 < sum(row["clipped_share"] for row in rows(whole)) < STEPS


def test_a_finished_run_started_again_has_nothing_to_do(whole: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    result = inceptionctl("train", whole / "recipe.yaml", "--output", whole, "--cpu-ranks", "2")
    assert result.returncode == 0 and "is finished: nothing to train" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


def test_the_run_keeps_everything_it_promises(whole: Path) -> None:
    for name in ("recipe.yaml", "environment.json", "log.txt", "metrics.jsonl", "checkpoints/latest", "checkpoints/best"):
        assert (whole / name).stat().st_size > 0, name
    assert list((whole / "tensorboard").glob("events.*"))
    kept = sorted(path.name for path in (whole / "checkpoints").iterdir() if path.is_dir())
    assert kept == [f"step-{step:08d}" for step in (30, 35, 40)]
    assert {row["num_images"] for row in rows(whole, "evaluate")} == {7}
    assert rows(whole)[-1]["loss"] < rows(whole)[0]["loss"]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_loss_that_is_not_finite_stops_with_code_6(stage: int, data: Path, tmp_path: Path) -> None:
    broken = ("schedule.base_lr=1e30", "optim.clip_global_norm=0", "optim.epsilon=1e-30")
    settings = sets(f"data.root={data}", *broken, f"train.zero_stage={stage}")
    result = inceptionctl("train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    refused(result, 6, "not finite at step", "schedule.base_lr")


def test_a_run_does_not_go_on_with_other_images(whole: Path, data: Path, tmp_path: Path) -> None:
    copy, root = tmp_path / "run", tmp_path / "data"
    shutil.copytree(whole, copy)
    shutil.copytree(data, root)
    (root / "train" / "class_1" / "000.jpg").unlink()
    longer = sets(f"data.root={root}", f"train.max_steps={STEPS + 1}")
    result = inceptionctl("train", copy / "recipe.yaml", *longer, "--output", copy, "--cpu-ranks", "2")
    refused(result, 3, "was trained on other images", "29 images then, 28 now", "1 only then: class_1/")
    # The hints, followed.
    assert "start a new run: another --output, and no --resume" in result.stderr
    other = sets(f"data.root={root}", "train.max_steps=1")
    followed = inceptionctl("train", copy / "recipe.yaml", *other, "--output", tmp_path / "new", "--cpu-ranks", "1")
    assert followed.returncode == 0, followed.stderr


def test_nor_does_a_new_run_that_begins_at_its_checkpoint(whole: Path, data: Path, tmp_path: Path) -> None:
    root, checkpoint = Path(shutil.copytree(data, tmp_path / "data")), whole / "checkpoints" / f"step-{STEPS:08d}"
    (root / "train" / "class_1" / "000.jpg").unlink()
    words = ("train", whole / "recipe.yaml", *sets(f"data.root={root}"), "--output", tmp_path / "new", "--cpu-ranks", "1")
    result = inceptionctl(*words, "--resume", checkpoint)
    refused(result, 3, f"{checkpoint} was trained on other images", "29 images then, 28 now")
    hint = f"model.init_from={checkpoint}"
    assert f"`--set {hint}` instead of --resume" in result.stderr and not (tmp_path / "new").exists()
    followed = inceptionctl(*words, *sets(hint, "train.max_steps=1"))
    assert followed.returncode == 0, followed.stderr
    assert "starts from the weights of" in followed.stderr


def test_the_best_is_saved_also_where_no_save_is_due(data: Path, tmp_path: Path) -> None:
    settings = sets(f"data.root={data}", "train.max_steps=6", "checkpoint.every_steps=5", "evaluate.every_epochs=1")
    result = inceptionctl("train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    errors = {row["step"]: row["top1_error"] for row in rows(tmp_path / "run", "evaluate")}
    assert list(errors) == [4, 6]  # an epoch is 29 / 8 steps
    best = min(errors, key=lambda step: (errors[step], step))
    assert (tmp_path / "run" / "checkpoints" / "best").read_text() == f"step-{best:08d}\n"
    assert (tmp_path / "run" / "checkpoints" / f"step-{best:08d}").is_dir()


def test_statistics_of_two_ranks_are_those_of_the_whole_batch(data: Path, tmp_path: Path) -> None:
    """With momentum 1 the statistics are the last batch's: of the first layer, the mean over ranks is the mean over the batch."""
    means = []
    for ranks in ("1", "2"):
        settings = sets(f"data.root={data}", "train.max_steps=1", "model.batch_norm_momentum=1.0", "train.micro_batch_size=8")
        command = ("train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", ranks, "--output", f"run{ranks}")
        assert inceptionctl(*command, cwd=tmp_path).returncode == 0
        tensors = load_file(tmp_path / f"run{ranks}" / "checkpoints" / "step-00000001" / "model.safetensors")
        means.append(
            next(tensors[name] for name in sorted(tensors) if name.startswith("stem.conv_1.") and "running_mean" in name)
        )
    assert means[0].abs().max() > 0.01
    assert (means[0] - means[1]).abs().max() < 1e-5


def test_a_new_run_goes_on_from_a_checkpoint_of_another(whole: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = whole / "checkpoints" / "step-00000030"
    settings = (*SETTINGS, *sets(f"data.root={data}"))
    result = inceptionctl(
        "train", "inception_v4", *settings, "--cpu-ranks", "2", "--output", "new", "--resume", checkpoint, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert [row["step"] for row in rows(tmp_path / "new")] == list(range(31, STEPS + 1))
    for name in FILES:
        ours, theirs = (path / "checkpoints" / f"step-{STEPS:08d}" / name for path in (tmp_path / "new", whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
