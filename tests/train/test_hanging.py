"""A rank that hangs, one that never comes, a launcher that is killed: the others end with words, and nothing is left. Real processes."""

import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from inceptionctl.distributed.local import free_port
from tests.commands import TINY, inceptionctl, refused, sets, started, wait_for_step
from tests.data.conftest import two_classes
from tests.train.test_signals import FILES, left_of, ranks_of, same_rows, wait_for

STEPS, TIMEOUT = 12, 25
SETTINGS = (
    *TINY,
    "model.num_classes=2",
    "train.epochs=100",
    f"train.max_steps={STEPS}",
    f"train.collective_timeout_seconds={TIMEOUT}",
    "data.read_timeout_seconds=10",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=2",
    "evaluate.every_epochs=null",
    "schedule.base_lr=0.01",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_classes(tmp_path_factory.mktemp("data"))


def command(data: Path, ranks: int = 2) -> tuple[str, ...]:
    return ("train", "inception_v4", *sets(*SETTINGS, f"data.root={data}"), "--cpu-ranks", str(ranks), "--output", "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = inceptionctl(*command(data), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def goes_on_to_the_same_end(folder: Path, data: Path, whole: Path) -> None:
    result = inceptionctl(*command(data), cwd=folder)
    assert result.returncode == 0 and "resuming from run/checkpoints/step-" in result.stderr, result.stderr
    for name in FILES:
        ours, theirs = (run / "checkpoints" / f"step-{STEPS:08d}" / name for run in (folder / "run", whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    same_rows(folder / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("hanging", [0, 1])
def test_a_rank_that_hangs_is_named_and_nothing_is_left(hanging: int, data: Path, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(*command(data), cwd=tmp_path, log=log) as process:
        wait_for_step(tmp_path / "run", 5, process, log)
        rank = ranks_of(process)[hanging]
        rank.send_signal(signal.SIGSTOP)
        assert process.wait(timeout=120) == 4, log.read_text()
        assert not left_of(process)
    said = log.read_text()
    assert f"error: rank {1 - hanging} has waited" in said and "in step " in said and "hint: " in said, said
    assert f"rank {hanging} (" in said and f"process {rank.pid})" in said and "Traceback" not in said, said
    goes_on_to_the_same_end(tmp_path, data, whole)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["command", "launcher"])
def test_ranks_whose_command_or_launcher_is_killed_save_and_leave(killed: str, data: Path, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(*command(data), cwd=tmp_path, log=log) as process:
        wait_for_step(tmp_path / "run", 5, process, log)
        ranks = ranks_of(process)
        if killed == "command":
            process.kill()
            process.wait()
        else:
            ranks[0].parent().kill()
            assert process.wait(timeout=90) == 4 and not any(map(lives, ranks))
        wait_for(lambda: not any(map(lives, ranks)), None, log)
    said = log.read_text()
    assert "the command that started the ranks has gone: they save and leave" in said, said
    assert "stopped by a signal after step" in said and "Traceback" not in said, said
    assert ("DeepSpeed's launcher was ended by SIGKILL" in said) == (killed == "launcher"), said
    goes_on_to_the_same_end(tmp_path, data, whole)


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def alone(rank: int, size: int, port: int, data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """One rank of a job whose others are never started; it waits for five seconds."""
    settings = (*SETTINGS, "train.collective_timeout_seconds=5", "data.read_timeout_seconds=2", f"data.root={data}")
    world = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    words = ("train", "inception_v4", *sets(*settings), "--output", "run")
    return inceptionctl(*words, cwd=folder, DS_ACCELERATOR="cpu", **world)


def test_ranks_that_never_come_are_named(data: Path, tmp_path: Path) -> None:
    port = free_port()
    missing = f"ranks 1, 2 have not come to 127.0.0.1:{port} within 5 s (1 of 3 are there)"
    refused(alone(0, 3, port, data, tmp_path), 4, missing, "every rank was started")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_first_rank_that_is_not_there_or_does_not_answer_is_worded(data: Path, tmp_path: Path) -> None:
    port = free_port()
    refused(alone(1, 2, port, data, tmp_path), 4, f"at 127.0.0.1:{port}")
    with socket.socket() as silent:  # as that of a process that is stopped: the kernel takes the connection, and nobody answers
        silent.bind(("127.0.0.1", port))
        silent.listen()
        refused(alone(1, 2, port, data, tmp_path), 4, f"rank 0 at 127.0.0.1:{port}, where the ranks meet, does not answer")
