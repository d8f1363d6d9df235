"""Checkpoints written in the background: the same bytes, one at a time, and no failure that is not heard of."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from inceptionctl.errors import EnvironmentFault
from inceptionctl.storage import write_atomically
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, take_snapshot, write_snapshot
from inceptionctl.train.checkpoint_writer import CheckpointWriter
from inceptionctl.train.optim import TensorFlowRMSProp, WeightAverage
from inceptionctl.train.optimizer_state import WholeState
from tests.disks import mount_small, mount_with_quota


class Job:
    """A network of a size that takes some time to write, in the memory format that training uses."""

    def __init__(self, checkpoints: Path, channels: int = 1024, continue_on_error: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Conv2d(channels, channels, 1).to(memory_format=torch.channels_last)
        self.optimizer = TensorFlowRMSProp(self.model.parameters(), 0.1, momentum=0.9)
        self.state = WholeState(self.model, self.optimizer)
        self.average = WeightAverage(self.model, 0.9)
        self.said: list[str] = []
        self.checkpoints = checkpoints
        self.writer = CheckpointWriter(
            checkpoints, keep_last=3, keep_best=True, say=self.said.append, continue_on_error=continue_on_error
        )

    def step(self) -> None:
        self.model(torch.randn(1, self.model.in_channels, 2, 2)).square().sum().backward()
        self.optimizer.step()
        self.average.update(self.model)

    def save(self, step: int, **values: object) -> None:
        self.writer.save(self.model, self.average, self.state.state_dict(), Progress(step=step, **values))  # type: ignore[arg-type]

    def contents(self, folder: Path, step: int) -> dict[str, bytes]:
        """Files of a checkpoint written in the foreground."""
        saved = write_snapshot(folder, take_snapshot(self.model, self.average, self.state.state_dict(), Progress(step=step)))
        return {name: (saved / name).read_bytes() for name in files.FILES}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "checkpoints")


def test_training_continues_meanwhile_and_changes_nothing_of_what_is_written(job: Job, tmp_path: Path) -> None:
    for step in (1, 2):  # the second in the memory of the first
        job.step()
        expected = job.contents(tmp_path / "foreground", step)
        job.save(step)
        job.step()  # while it is written
        job.writer.finish()
        saved = files.step_folder(job.checkpoints, step)
        assert {name: (saved / name).read_bytes() for name in files.FILES} == expected
    assert len(job.said) == 2 and "saved" in job.said[0] and "training blocked for" in job.said[0]


def test_a_snapshot_is_a_copy(job: Job, tmp_path: Path) -> None:
    job.step()
    expected = job.contents(tmp_path / "before", 1)
    snapshot = take_snapshot(job.model, job.average, job.state.state_dict(), Progress(step=1))
    job.step()
    saved = write_snapshot(tmp_path / "after", snapshot)
    assert {name: (saved / name).read_bytes() for name in files.FILES} == expected


def test_one_at_a_time_and_latest_names_whole_ones_only(job: Job) -> None:
    job.step()
    job.save(1)
    for step in (2, 3, 4):
        job.save(step)  # waits for the one before, which is whole then
        files.verify(files.step_folder(job.checkpoints, step - 1))
        assert len(list(job.checkpoints.glob(".step*.tmp"))) <= 1
        latest = files.pointed(job.checkpoints, "latest")
        assert latest is not None
        files.verify(latest)
    job.writer.finish()
    assert files.pointed(job.checkpoints, "latest") == files.step_folder(job.checkpoints, 4)


def test_the_best_is_pointed_at_and_kept_with_those_for_good(job: Job) -> None:
    job.save(1, kept=[1])
    job.save(2, best={"step": 2, "top1_error": 1.0}, kept=[1])
    for step in (3, 4, 5, 6):
        job.save(step, best={"step": 2, "top1_error": 1.0}, kept=[1])
    job.writer.finish()
    assert [files.step_of(path) for path in files.list_checkpoints(job.checkpoints)] == [1, 2, 4, 5, 6]
    best = files.pointed(job.checkpoints, "best")
    assert best is not None and files.step_of(best) == 2


def test_a_failure_is_raised_by_the_next_save_or_at_the_end_and_only_once(job: Job) -> None:
    job.save(1)
    job.writer.finish()
    shutil.move(job.checkpoints, job.checkpoints.with_name("away"))
    job.checkpoints.write_text("a file where the folder was")
    for hear in (lambda: job.save(3), job.writer.finish):
        job.save(2)
        with pytest.raises(EnvironmentFault, match="cannot write") as caught:
            hear()
        assert caught.value.exit_code == 4
        job.writer.finish()  # said once
    job.save(2)
    job.writer.settle()
    assert "the last checkpoint was not saved: cannot write" in job.said[-1]
    files.verify(job.checkpoints.with_name("away") / "step-00000001")


def test_a_full_disk_is_heard_of_and_room_made_lets_the_next_save_succeed(tmp_path: Path) -> None:
    mount_small(tmp_path, "size=1m")
    try:
        job = Job(tmp_path, channels=128)
        job.step()
        job.save(1)
        job.writer.finish()
        (tmp_path / "ballast").write_bytes(b"x" * (shutil.disk_usage(tmp_path).free - 100_000))
        job.save(2)
        with pytest.raises(EnvironmentFault, match="no space left while writing"):
            job.writer.finish()
        assert [path.name for path in files.list_checkpoints(tmp_path)] == ["step-00000001"]
        assert files.newest_whole(tmp_path) == (tmp_path / "step-00000001", []) == (files.pointed(tmp_path, "latest"), [])
        assert not list(tmp_path.glob(".*.tmp"))
        (tmp_path / "ballast").unlink()
        job.save(3)
        job.writer.finish()
        files.verify(tmp_path / "step-00000003")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_writer_that_continues_on_error_tries_again_and_fails_only_with_its_last_save(tmp_path: Path) -> None:
    mount_small(tmp_path, "size=1m")
    try:
        job = Job(tmp_path, channels=128, continue_on_error=True)
        ballast = tmp_path / "ballast"
        for step, full in ((1, False), (2, True), (3, True), (4, False), (5, True)):
            ballast.write_bytes(b"")
            ballast.write_bytes(b"x" * (shutil.disk_usage(tmp_path).free - 100_000) if full else b"")
            job.step()
            job.save(step)  # raises nothing of the one before
            job.writer.wait()
        assert job.writer.num_failed == 3 and [files.step_of(path) for path in files.list_checkpoints(tmp_path)] == [1, 4]
        lost = [line for line in job.said if "NOT SAVED" in line]
        assert ["2" in lost[0], "3" in lost[1], "5" in lost[2]] == [True] * 3
        assert all("no space left while writing" in line and "tries again" in line for line in lost)
        assert f"with {tmp_path / 'step-00000001'} to go back to" in lost[1]
        assert files.newest_whole(tmp_path) == (tmp_path / "step-00000004", []) == (files.pointed(tmp_path, "latest"), [])
        with pytest.raises(EnvironmentFault, match="no space left while writing"):
            job.writer.finish()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_quota_is_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    checkpoints = mount_with_quota(disk, tmp_path / "image", 2 << 20)
    try:
        job = Job(checkpoints, channels=128)
        job.step()
        job.writer = CheckpointWriter(checkpoints, keep_last=99, keep_best=True, say=job.said.append)
        job.save(1)
        with pytest.raises(EnvironmentFault, match="no space left while writing") as caught:
            for step in range(2, 20):
                job.save(step)
        assert shutil.disk_usage(checkpoints).free > 30 << 20 and "quota" in str(caught.value.hint)
        newest, damaged = files.newest_whole(checkpoints)
        assert newest is not None and not damaged
        latest = files.pointed(checkpoints, "latest")
        assert latest is not None and files.step_of(newest) - 1 <= files.step_of(latest)
        with pytest.raises(EnvironmentFault, match="no space left while writing"):
            write_atomically(checkpoints / "rows", bytes(2 << 20))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_becomes_read_only_is_heard_of(tmp_path: Path) -> None:
    mount_small(tmp_path, "size=4m")
    try:
        job = Job(tmp_path, channels=128)
        job.save(1)
        job.writer.finish()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        job.save(2)
        with pytest.raises(EnvironmentFault, match=r"cannot write .*Read-only file system"):
            job.writer.finish()
        files.verify(tmp_path / "step-00000001")
        assert files.pointed(tmp_path, "latest") == tmp_path / "step-00000001"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_save_comes_back_before_the_checkpoint_is_there(job: Job) -> None:
    seen = []
    for step in range(1, 4):
        job.save(step)
        seen.append(files.step_folder(job.checkpoints, step).exists())
        job.writer.finish()
        assert files.step_folder(job.checkpoints, step).exists()
    assert not all(seen)
