import json
import os
import pickle
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.recipe import load_recipe
from inceptionctl.recipe.variants import AdamWSection
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, load_checkpoint, load_weights, progress_of, save_checkpoint
from inceptionctl.train.lock import take_lock
from inceptionctl.train.optim import TensorFlowRMSProp, WeightAverage, build_optimizer
from inceptionctl.train.optimizer_state import WholeState
from inceptionctl.train.start import decide_start, keep_start
from tests.disks import mount_small


class Job:
    """A network that has made some steps, in the memory format that training uses."""

    def __init__(self, seed: int = 0, channels: int = 4) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * 4, 2)
        )
        self.model.to(memory_format=torch.channels_last)
        self.optimizer: torch.optim.Optimizer = TensorFlowRMSProp(self.model.parameters(), 0.1, momentum=0.9)
        self.average = WeightAverage(self.model, 0.9)

    @property
    def state(self) -> WholeState:
        return WholeState(self.model, self.optimizer)

    def step(self, times: int = 1) -> None:
        for number in range(times):
            torch.manual_seed(number)
            self.model(torch.randn(5, 3, 4, 4)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update(self.model)

    def save(self, folder: Path, step: int) -> Path:
        recipe = load_recipe("quickstart").resolved()
        progress = Progress(step=step, total_steps=10, ema_updates=self.average.num_updates, classes=["a", "b"], recipe=recipe)
        return save_checkpoint(folder, self.model, self.average, self.optimizer, progress)

    def tensors(self) -> list[torch.Tensor]:
        states = [
            self.optimizer.state[weight][key] for weight in self.model.parameters() for key in ("mean_square", "momentum")
        ]
        return [*self.model.state_dict().values(), *self.average.model.state_dict().values(), *states]


def test_everything_comes_back_and_training_goes_on_alike(tmp_path: Path) -> None:
    job, other = Job(), Job(seed=9)
    job.step(3)
    saved = job.save(tmp_path, 3)
    progress = load_checkpoint(saved, other.model, other.average, other.state)
    assert progress.step == 3 and other.average.num_updates == 3
    for one in (job, other):
        one.step(2)
    assert len(job.tensors()) == len(other.tensors()) > 20
    assert all(torch.equal(a, b) for a, b in zip(job.tensors(), other.tensors(), strict=True))


def test_a_checkpoint_of_before_rollbacks_comes_back(tmp_path: Path) -> None:
    job = Job()
    job.step()
    saved = job.save(tmp_path, 1)
    content = json.loads((saved / "progress.json").read_text())
    assert content.pop("rollbacks") == []
    (saved / "progress.json").write_text(json.dumps(content))
    progress = progress_of(saved)
    assert progress.step == 1 and progress.skipped == [] and progress.batch == 1


def test_the_state_of_adamw_comes_back_with_its_counters(tmp_path: Path) -> None:
    def job_with_adamw(seed: int) -> Job:
        job = Job(seed=seed)
        adamw = AdamWSection(name="adamw", betas=(0.9, 0.99), weight_decay=0.1)
        job.optimizer = build_optimizer(job.model, adamw, 0.1)
        return job

    job, other = job_with_adamw(0), job_with_adamw(9)
    job.step(3)
    recipe = load_recipe("quickstart", ["optim.name=adamw"]).resolved()
    saved = save_checkpoint(tmp_path, job.model, job.average, job.optimizer, Progress(step=3, recipe=recipe))
    load_checkpoint(saved, other.model, other.average, other.state)
    for one in (job, other):
        one.step(2)
    for a, b in zip(job.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in job.optimizer.state[a].items():
            assert torch.equal(value, other.optimizer.state[b][key]), key


def test_files_hold_no_pickle_and_the_manifest_covers_them(tmp_path: Path) -> None:
    job = Job()
    job.step()
    saved = job.save(tmp_path, 1)
    assert sorted(path.name for path in saved.iterdir()) == sorted([*files.FILES, "manifest.json"])
    assert set(json.loads((saved / "manifest.json").read_text())["files"]) == set(files.FILES)
    files.verify(saved)
    assert files.pointed(tmp_path, "latest") == saved


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*files.FILES, "manifest.json"])
def test_damage_is_noticed_and_the_one_before_is_taken(name: str, damage: str, tmp_path: Path) -> None:
    job = Job()
    job.step()
    good, bad = job.save(tmp_path, 1), job.save(tmp_path, 2)
    DAMAGE[damage](bad / name)
    with pytest.raises(CheckpointError) as caught:
        files.verify(bad)
    assert (name in caught.value.message or "manifest" in caught.value.message) and caught.value.exit_code == 5
    found, skipped = files.newest_whole(tmp_path)
    assert found == good and len(skipped) == 1
    DAMAGE[damage](good / name)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        files.newest_whole(tmp_path)


def test_another_network_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    saved = Job(channels=4).save(tmp_path, 1)
    other = Job(channels=8)
    before = [tensor.clone() for tensor in other.model.state_dict().values()]
    with pytest.raises(
        CheckpointError, match=r"of another network:\n  0\.weight: \(4, 3, 3, 3\) in the file, \(8, 3, 3, 3\) in the network"
    ):
        load_weights(saved / "model.safetensors", other.model)
    assert all(torch.equal(a, b) for a, b in zip(before, other.model.state_dict().values(), strict=True))


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    job = Job()
    job.step()
    saved = job.save(tmp_path, 1)
    sgd = torch.optim.SGD(job.model.parameters(), 0.1, momentum=0.9)
    with pytest.raises(
        CheckpointError,
        match="holds the state of rmsprop with mean_square and momentum a weight, the recipe asks for sgd with momentum_buffer",
    ):
        load_checkpoint(saved, job.model, job.average, WholeState(job.model, sgd))
    still = TensorFlowRMSProp(job.model.parameters(), 0.1)
    with pytest.raises(CheckpointError, match="asks for rmsprop with mean_square a weight"):
        load_checkpoint(saved, job.model, job.average, WholeState(job.model, still))


@pytest.mark.parametrize("files_entry", ["[]", '{"model.safetensors": 3}', '{"model.safetensors": {}}'])
def test_a_manifest_edited_by_hand_is_damage(files_entry: str, tmp_path: Path) -> None:
    saved = Job().save(tmp_path, 1)
    (saved / "manifest.json").write_text(f'{{"format": 1, "files": {files_entry}}}')
    with pytest.raises(CheckpointError, match="is damaged"):
        files.verify(saved)


def test_a_planted_file_is_refused(tmp_path: Path) -> None:
    job = Job()
    good, bad = job.save(tmp_path, 1), job.save(tmp_path, 2)
    (bad / "optimizer.pt").write_bytes(pickle.dumps({"step": 2}))
    with pytest.raises(CheckpointError, match=r"holds optimizer\.pt, which its manifest does not name"):
        files.verify(bad)
    assert files.newest_whole(tmp_path)[0] == good


def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    saved = Job().save(tmp_path, 1)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["../latest"] = {"bytes": 0, "sha256": ""}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"\.\./latest is missing"):
        files.verify(saved)


def test_a_run_directory_is_held_by_one_training(tmp_path: Path) -> None:
    held, remarks = take_lock(Run(tmp_path))
    assert remarks == []
    with pytest.raises(CheckpointError, match=rf"is being trained by process {os.getpid()} on"):
        take_lock(Run(tmp_path))
    held.close()  # as the kernel does for a process that dies
    again, remarks = take_lock(Run(tmp_path))
    again.close()
    assert remarks == [f"{tmp_path}: stale lock of process {os.getpid()} on {socket.gethostname()}"]


def test_a_lock_left_by_another_host_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 17 on gpu07\n")
    held, remarks = take_lock(Run(tmp_path))
    held.close()
    assert remarks[0].endswith("stale lock of process 17 on gpu07; make sure that it no longer runs")


def test_pruning_keeps_the_last_the_best_and_those_for_good(tmp_path: Path) -> None:
    job = Job()
    saved = {step: job.save(tmp_path, step) for step in (1, 2, 3, 4, 5)}
    files.point(tmp_path, "best", saved[2])
    leftover = tmp_path / ".step-00000009.123.tmp"
    leftover.mkdir()
    files.prune(tmp_path, newest=5, keep_last=1, keep_best=True, kept=[1])
    assert files.list_checkpoints(tmp_path) == [saved[1], saved[2], saved[5]]
    assert not leftover.exists()
    files.prune(tmp_path, newest=5, keep_last=1, keep_best=False)
    assert files.list_checkpoints(tmp_path) == [saved[5]]


def test_a_damaged_checkpoint_that_was_passed_over_pushes_out_no_good_one(tmp_path: Path) -> None:
    job = Job()
    damaged, good = job.save(tmp_path, 20), job.save(tmp_path, 17)
    flip(damaged / "model.safetensors")
    files.prune(tmp_path, newest=17, keep_last=1, keep_best=False)
    assert files.newest_whole(tmp_path)[0] == good and damaged.exists()


def test_the_first_checkpoint_past_each_multiple_is_kept_for_good() -> None:
    kept: list[int] = []
    for step in range(3, 40, 3):
        if files.is_kept_for_good(step, kept, 7.5):
            kept.append(step)
    assert kept == [9, 15, 24, 30, 39]
    assert not files.is_kept_for_good(9, [], None)


def test_pointers_that_a_kill_left_behind_are_mended(tmp_path: Path) -> None:
    job = Job()
    old = job.save(tmp_path, 1)
    best = {"step": 2, "top1_error": 3.0}
    new = save_checkpoint(tmp_path, job.model, job.average, job.optimizer, Progress(step=2, best=best))
    for name in ("latest", "best"):
        files.point(tmp_path, name, old)
    files.mend_pointers(tmp_path, new)
    assert files.pointed(tmp_path, "latest") == files.pointed(tmp_path, "best") == new


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount_small(folder, "size=256k")
    return folder


def test_a_full_disk_keeps_the_previous_checkpoint_whole(small_disk: Path) -> None:
    try:
        job = Job(channels=64)
        job.step()
        first = job.save(small_disk, 1)
        (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))
        with pytest.raises(EnvironmentFault, match="no space left while writing"):
            job.save(small_disk, 2)
        files.verify(first)
        assert files.pointed(small_disk, "latest") == first
        assert [path.name for path in small_disk.iterdir() if "tmp" in path.name] == []
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def test_a_path_that_is_no_checkpoint_is_worded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run or checkpoint"):
        files.open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"neither a run directory nor a checkpoint"):
        files.open_checkpoint(tmp_path)


def test_progress_of_another_version_is_worded(tmp_path: Path) -> None:
    saved = Job().save(tmp_path, 1)
    (saved / "progress.json").write_text('{"step": 1, "steps_to_heaven": 7}')
    with pytest.raises(CheckpointError, match="of another version"):
        progress_of(saved)


class TestStart:
    """Where a training starts: new, going on, or refused."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    recipe = staticmethod(lambda *settings: load_recipe("quickstart", settings))

    def begun(self) -> Path:
        start = decide_start(self.recipe(), None, "auto")
        Job().save(start.run.checkpoints, 4)
        return start.run.path

    def test_auto_begins_and_then_goes_on(self) -> None:
        start = decide_start(self.recipe(), None, "auto")
        assert start.checkpoint is None and start.run.recipe() == self.recipe()
        assert decide_start(self.recipe(), None, "auto").run == start.run
        saved = Job().save(start.run.checkpoints, 4)
        assert decide_start(self.recipe(), None, "auto").checkpoint == saved
        assert decide_start(self.recipe("train.seed=7"), None, "auto").run != start.run

    def test_never_begins_anew_and_overwrites_nothing(self) -> None:
        first = self.begun()
        second = decide_start(self.recipe(), None, "never")
        assert second.run.path != first and second.checkpoint is None
        with pytest.raises(CheckpointError, match="is occupied by a run"):
            decide_start(self.recipe(), first, "never")

    def test_an_output_with_other_things_in_it_is_refused(self) -> None:
        Path("mine").mkdir()
        Path("mine/thesis.txt").write_text("dear")
        with pytest.raises(CheckpointError, match="occupied by something else"):
            decide_start(self.recipe(), Path("mine"), "auto")
        assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]

    @pytest.mark.parametrize("resume", ["auto", "never"])
    def test_a_run_that_was_killed_while_it_was_made_is_made_again(self, resume: str) -> None:
        Path("mine/checkpoints").mkdir(parents=True)
        Path("mine/exclusions.txt").touch()
        assert decide_start(self.recipe(), Path("mine"), resume).run.recipe() == self.recipe()

    def test_another_recipe_is_refused_with_the_difference(self) -> None:
        run = self.begun()
        with pytest.raises(CheckpointError, match=r"train.seed: 0 -> 7"):
            decide_start(self.recipe("train.seed=7"), run, "auto")

    def test_a_longer_training_goes_on_and_keeps_the_earlier_recipe(self) -> None:
        run = self.begun()
        start = decide_start(self.recipe("train.epochs=99"), run, "auto")
        assert start.checkpoint is not None and start.run.recipe() == self.recipe()  # the start may yet be refused
        keep_start(start, self.recipe("train.epochs=99"))
        assert start.run.recipe().train.epochs == 99
        assert len(list(run.glob("recipe.until-step-00000004.*.yaml"))) == 1

    def test_a_checkpoint_begins_a_new_run_from_there(self) -> None:
        saved = self.begun() / "checkpoints" / "step-00000004"
        start = decide_start(self.recipe(), Path("other"), str(saved))
        assert (start.run.path, start.checkpoint) == (Path("other"), saved)
        # Killed before it has saved anything, the new run begins where it began.
        again = decide_start(self.recipe(), Path("other"), "auto")
        assert again.checkpoint is not None and again.checkpoint.resolve() == saved.resolve()
        with pytest.raises(CheckpointError, match=r"model.width: 0.25 in the checkpoint, 0.5 in the recipe"):
            decide_start(self.recipe("model.width=0.5"), Path("third"), str(saved))
        assert not Path("third").exists()

    def test_a_run_directory_goes_on_in_it(self) -> None:
        run = self.begun()
        assert decide_start(self.recipe(), None, str(run)).checkpoint == run / "checkpoints" / "step-00000004"
        with pytest.raises(CheckpointError, match="names another place"):
            decide_start(self.recipe(), Path("elsewhere"), str(run))

    def test_a_finished_run_is_recognised_until_it_is_made_longer(self) -> None:
        start = decide_start(self.recipe(), None, "auto")
        Job().save(start.run.checkpoints, 10)
        assert decide_start(self.recipe(), None, "auto").finished
        assert not decide_start(self.recipe("train.epochs=99"), start.run.path, "auto").finished
