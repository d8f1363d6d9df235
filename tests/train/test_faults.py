"""What disks and kills do to a run: real trainings, whose checkpoints are damaged, whose disk fills up, and whose ranks are killed."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from inceptionctl.errors import CheckpointError
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.start import decide_start
from tests.commands import TINY, environment, inceptionctl, refused, rows, sets, started, wait_for_step
from tests.data.conftest import fill
from tests.disks import mount_small
from tests.train.test_checkpoint import DAMAGE, Job

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
SETTINGS = sets(
    *TINY,
    "model.num_classes=2",
    "train.epochs=100",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=2",
    "evaluate.every_epochs=null",
    "schedule.base_lr=0.01",
    "data.num_threads=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("val", 3)):
        for label in range(2):
            fill(root / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    return root


def command(data: Path, output: Path, steps: int = STEPS) -> list[str]:
    settings = sets(f"data.root={data}", f"train.max_steps={steps}")
    return ["train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", "1", "--output", str(output)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with checkpoints at steps 2, 4 and 6."""
    path = tmp_path_factory.mktemp("whole") / "run"
    result = inceptionctl(*command(data, path))
    assert result.returncode == 0, result.stderr
    return Run(path)


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(whole.path, tmp_path / "run")))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*files.FILES, files.MANIFEST])
def test_damage_of_any_file_is_noticed_before_training(name: str, damage: str, run: Run) -> None:
    recipe = run.recipe()
    assert decide_start(recipe, run.path, "auto").finished
    for newest, before in ((6, 4), (4, 2)):
        DAMAGE[damage](run.checkpoints / f"step-{newest:08d}" / name)
        start = decide_start(recipe, run.path, "auto")
        assert start.checkpoint == run.checkpoints / f"step-{before:08d}" and not start.finished
        assert len(start.remarks) == (6 - before) // 2 and "passed over a damaged checkpoint" in start.remarks[-1]
        assert f"step-{newest:08d}" in start.remarks[-1]
    DAMAGE[damage](run.checkpoints / "step-00000002" / name)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole") as caught:
        decide_start(recipe, run.path, "auto")
    assert caught.value.exit_code == 5


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    saved = Job().save(tmp_path, 1)
    manifest = saved / files.MANIFEST
    good = manifest.read_bytes()
    for place in range(len(good)):
        # Another bit at each place: all eight everywhere were tried once and were noticed, at eight times the cost.
        manifest.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        with pytest.raises(CheckpointError):
            files.verify(saved)
    manifest.write_bytes(good)
    files.verify(saved)


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before_to_the_same_end(run: Run, whole: Run, data: Path) -> None:
    DAMAGE["flipped"](run.checkpoints / "step-00000006" / "optimizer.safetensors")
    result = inceptionctl(*command(data, run.path))
    assert result.returncode == 0, result.stderr
    assert "passed over a damaged checkpoint" in result.stderr and "optimizer.safetensors was changed" in result.stderr
    assert "step 4 of 6" in result.stderr
    for name in files.FILES[:3]:
        ours, theirs = (each.checkpoints / "step-00000006" / name for each in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert [row["step"] for row in rows(run.path)] == list(range(1, STEPS + 1))


def test_no_whole_checkpoint_left_is_code_5(run: Run, data: Path) -> None:
    for checkpoint in files.list_checkpoints(run.checkpoints):
        DAMAGE["cut"](checkpoint / "ema.safetensors")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    refused(inceptionctl(*command(data, run.path)), 5, "no checkpoint in", "is whole", "checkpoints verify", "another --output")
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount_small(folder, "size=96m")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_with_code_4_and_room_lets_it_go_on(small_disk: Path, data: Path) -> None:
    words, log = command(data, small_disk / "run", steps=40), small_disk.with_name("log")
    checkpoints = small_disk / "run" / "checkpoints"
    with started(*words, cwd=small_disk.parent, log=log) as process:
        wait_for_step(small_disk / "run", 7, process, log)
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            # A little is left for the rows of metrics, too little for a checkpoint.
            left = shutil.disk_usage(small_disk).free - 500_000
            file.write(bytes(max(0, left)))
        assert process.wait(timeout=120) == 4, log.read_text()
    text = log.read_text()
    assert "error: no space left while writing" in text and "hint: free some space" in text and "Traceback" not in text
    newest, damaged = files.newest_whole(checkpoints)
    assert newest is not None and not damaged and files.pointed(checkpoints, "latest") == newest
    assert not list(checkpoints.glob(".*.tmp"))
    ballast.unlink()
    result = inceptionctl(*command(data, small_disk / "run", steps=files.step_of(newest) + 2))
    assert result.returncode == 0 and f"resuming from {newest}" in result.stderr, result.stderr


@pytest.mark.slow
def test_a_run_may_go_on_over_saves_that_fail_and_ends_with_code_4_only_if_the_last_did(small_disk: Path, data: Path) -> None:
    run, log, ballast = small_disk / "run", small_disk.with_name("log"), small_disk / "ballast"

    def begun(steps: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
        words = [*command(data, run, steps=steps), *sets("checkpoint.on_write_error=continue")]
        return started(*words, cwd=small_disk.parent, log=log)

    def fill_up(but: int) -> None:
        # Beside a save, the disk may be full before we are, and is emptied again when that save has failed.
        with contextlib.suppress(OSError), ballast.open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(small_disk).free - but)))

    with begun(20) as process:
        wait_for_step(run, 5, process, log)
        fill_up(but=500_000)  # a little is left for the rows of metrics, too little for a checkpoint
        assert process.wait(timeout=120) == 4, log.read_text()
    text = log.read_text()
    assert "WAS NOT SAVED: no space left while writing" in text and "error: no space left while writing" in text
    assert "Traceback" not in text and [row["step"] for row in rows(run)] == list(range(1, 21))
    assert rows(run)[0]["failed_saves"] == 0 < rows(run)[-1]["failed_saves"] == text.count("WAS NOT SAVED") - 1
    newest, damaged = files.newest_whole(run / "checkpoints")
    assert newest is not None and not damaged and files.pointed(run / "checkpoints", "latest") == newest

    ballast.write_bytes(b"")  # still there: a full disk has no room for another name
    log.write_text("")
    with begun(60) as process:
        wait_for_step(run, 23, process, log)
        while not all(words in log.read_text() for words in ("WAS NOT SAVED", "kept in memory until there is room")):
            fill_up(but=0)  # not even a row
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        ballast.unlink()
        assert process.wait(timeout=120) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert [row["step"] for row in rows(run)] == list(range(1, 61)) and rows(run)[-1]["failed_saves"] > 0
    assert "WAS NOT SAVED" in (run / "log.txt").read_text()
    files.verify(run / "checkpoints" / "step-00000060")


def test_a_read_only_disk_is_refused(small_disk: Path, data: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(inceptionctl(*command(data, small_disk / "run")), 4, "cannot write", "Read-only file system", "--output")


@pytest.mark.slow
def test_three_kills_at_random_moments_change_nothing() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "faults"), "--rounds", "3", "--seed", "1", "--json"]
    result = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=540, check=False)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["rounds_survived"] == 3 and told["trainings_equal_bit_for_bit"] == 1
