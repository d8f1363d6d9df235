"""SIGTERM, SIGINT, SIGUSR1 and SIGHUP stop a training after a step, and its end is that of one never stopped. Real processes."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from inceptionctl.distributed.signals import SECONDS_OF_ONE_REQUEST, Requests
from tests.commands import COMMAND, TINY, environment, inceptionctl, kill_all, rows, sets, started, wait_for_step
from tests.data.conftest import fill

# Windows of three steps, so that a stop falls into the middle of one; a save where no row is due otherwise.
STEPS, EVALUATED, SAVED = 20, 15, 5
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
SETTINGS = (
    *TINY[:-1],
    "train.log_every_steps=3",
    "model.num_classes=2",
    "train.epochs=100",
    f"train.max_steps={STEPS}",
    "checkpoint.every_epochs=null",
    f"checkpoint.every_steps={SAVED}",
    "evaluate.every_epochs=4",  # 29 images in batches of 8: after step 15, and the last
    "evaluate.batch_size=1",
    "schedule.base_lr=0.01",
)
Process = subprocess.Popen[bytes]
# A shell without job control starts a background job with SIGINT ignored.
BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    # So many to validate on that a signal finds it at work.
    for split, counts in (("train", (15, 14)), ("val", (45, 45))):
        for label, count in enumerate(counts):
            fill(root / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    return root


def command(data: Path, ranks: int) -> tuple[str, ...]:
    return ("train", "inception_v4", *sets(*SETTINGS, f"data.root={data}"), "--cpu-ranks", str(ranks), "--output", "run")


@pytest.fixture(scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, int]:
    """A run that was never stopped, and its ranks."""
    folder = tmp_path_factory.mktemp("whole")
    result = inceptionctl(*command(data, request.param), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run", request.param


def ranks_of(process: Process) -> list[psutil.Process]:
    """The ranks of a command, in order."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            rank = child.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = child
    return [found[rank] for rank in sorted(found)]


def wait_for(there: Callable[[], Any], process: Process | None, log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert process is None or process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


def left_of(process: Process) -> list[psutil.Process]:
    """Processes of a command that has ended; it led a process group of its own. The dead may wait for a lazy init to bury them."""
    left = []
    for one in psutil.process_iter():
        try:
            if os.getpgid(one.pid) == process.pid and one.status() != psutil.STATUS_ZOMBIE:
                left.append(one)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return left


def to_command(process: Process, number: int) -> None:
    process.send_signal(number)


def to_rank(rank: int) -> Callable[[Process, int], None]:
    return lambda process, number: ranks_of(process)[rank].send_signal(number)


def to_all(process: Process, number: int) -> None:
    """As a terminal does on Ctrl-C, or Slurm."""
    os.killpg(process.pid, number)


def stop(data: Path, ranks: int, folder: Path, moment: Callable[[Process, Path], None], number: int, send: Callable) -> str:
    """Start a run, or go on; send a signal at a moment; give what it said."""
    log = folder / f"log-{time.monotonic_ns()}"
    with started(*command(data, ranks), cwd=folder, log=log) as process:
        moment(process, log)
        send(process, number)
        assert process.wait(timeout=90) == 75, log.read_text()
        assert not left_of(process)
    said = log.read_text()
    assert "Traceback" not in said and "error:" not in said, said
    assert (
        f"resume with: inceptionctl train run/recipe.yaml --output run --cpu-ranks {ranks}\n" in said
        or "give the same command" in said
    )
    return said


def test_a_signal_told_twice_is_one_request_and_a_later_one_is_the_second() -> None:
    requests = Requests()
    told = (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    assert not any(requests.is_second(number) for number in told)
    time.sleep(SECONDS_OF_ONE_REQUEST)
    assert not requests.is_second(signal.SIGUSR1) and not requests.is_second(signal.SIGHUP)
    assert requests.is_second(signal.SIGINT)
    assert requests.first == "SIGUSR1"


LOSES_ITS_TERMINAL = """
import os, signal, sys, time
from inceptionctl import console
from inceptionctl.distributed.signals import heard, mute_lost_terminal

told = open(sys.argv[1], "w", buffering=1)
# Not through the file: a handler may come in the middle of a write to it.
signal.signal(signal.SIGHUP, lambda *_: os.write(told.fileno(), b"hung up\\n"))
assert signal.SIGHUP in heard()
print("ready", flush=True)
while os.isatty(2):
    time.sleep(0.01)
console.say("into the void")
told.write("said\\n")
mute_lost_terminal()
print("and on")
told.write(f"muted {os.path.samestat(os.fstat(1), os.stat(os.devnull))}\\n")
signal.signal(signal.SIGHUP, signal.SIG_IGN)
told.write(f"heard {signal.SIGHUP in heard()}\\n")
"""


def _be_of_the_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup


class Terminal:
    """A terminal of its own for a command, which is closed by the test."""

    def __init__(self, words: Sequence[str | Path], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.process = subprocess.Popen(
            [*map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment(),
            start_new_session=True,
            preexec_fn=_be_of_the_terminal,
        )
        os.close(slave)
        self.said = b""

    def wait_for(self, there: Callable[[], Any], seconds: float = 240) -> None:
        """Read what is said until something is so: a terminal that nobody reads holds its writers up."""
        deadline = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said.decode(errors="replace")
            with contextlib.suppress(BlockingIOError):
                self.said += os.read(self._master, 1 << 16)
            time.sleep(0.01)

    def close(self) -> None:
        os.close(self._master)


def test_what_is_said_to_a_lost_terminal_is_no_error(tmp_path: Path) -> None:
    told = tmp_path / "told"
    terminal = Terminal([sys.executable, "-c", LOSES_ITS_TERMINAL, told], tmp_path)
    terminal.wait_for(lambda: b"ready" in terminal.said)
    terminal.close()
    assert terminal.process.wait(timeout=60) == 0
    assert told.read_text().splitlines() == ["hung up", "said", "muted True", "heard False"]


def test_a_closed_terminal_saves_and_ends_and_nohup_outlives_it(data: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", command(data, 1)
    terminal = Terminal([*COMMAND, *words, *sets("train.log_every_steps=1")], tmp_path)
    try:
        terminal.wait_for(lambda: rows(run))
        terminal.close()
        assert terminal.process.wait(timeout=240) == 75
        assert not left_of(terminal.process)
    finally:
        kill_all(terminal.process)
    step = progress(run)["step"]
    assert f"stopped by a signal after step {step}; rerun the same command to resume" in (run / "log.txt").read_text()
    log = tmp_path / "log"
    with started(*words, *sets("train.log_every_steps=2"), cwd=tmp_path, log=log, by=("nohup",)) as process:
        wait_for_step(run, step + 1, process, log)
        to_all(process, signal.SIGHUP)
        wait_for_step(run, step + 4, process, log)
        to_all(process, signal.SIGTERM)
        assert process.wait(timeout=240) == 75, log.read_text()
    assert "changed since the last start: train.log_every_steps: 1 -> 2" in log.read_text()
    assert "log_every_steps: 2" in (run / "recipe.yaml").read_text() and (run / "data_list.gz").is_file()
    ends = [start["ended"]["exit_code"] for start in json.loads((run / "environment.json").read_text())]
    assert ends == [75, 75]


def progress(run: Path) -> dict[str, Any]:
    latest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    content: dict[str, Any] = json.loads((latest / "progress.json").read_text())
    return content


def same_rows(ours: Path, theirs: Path) -> None:
    for kind, keys in (
        ("train", ("step", "epoch", "loss", "learning_rate", "grad_norm", "zero_share", "activation_rms", "bad_images")),
        ("evaluate", ("step", "epoch", "top1_error", "top5_error", "loss", "num_images")),
    ):
        assert [[row[key] for key in keys] for row in rows(ours, kind)] == [
            [row[key] for key in keys] for row in rows(theirs, kind)
        ]


@pytest.mark.slow
def test_a_run_stopped_at_every_kind_of_moment_ends_like_one_never_stopped(
    whole: tuple[Path, int], data: Path, tmp_path: Path
) -> None:
    theirs, ranks = whole
    run, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"

    def ranks_begin(process: Process, log: Path) -> None:
        wait_for(lambda: ranks_of(process), process, log)

    def at_step(step: int) -> Callable[[Process, Path], None]:
        return lambda process, log: wait_for_step(run, step, process, log)

    def while_saving(process: Process, log: Path) -> None:
        wait_for(lambda: list(checkpoints.glob(f".step-{SAVED:08d}.*")), process, log)

    said = stop(data, ranks, tmp_path, ranks_begin, signal.SIGTERM, to_command)
    assert "before the training began: nothing is lost" in said and not list(checkpoints.glob("step-*"))

    said = stop(data, ranks, tmp_path, while_saving, signal.SIGINT, to_all)
    assert progress(run)["step"] in (SAVED, SAVED + 1)
    assert said.count(f"saved run/checkpoints/step-{progress(run)['step']:08d}") == 1

    # While step 5 is written, step 6 may be made, with its row; the next row is that of step 9.
    said = stop(data, ranks, tmp_path, at_step(9), signal.SIGUSR1, to_rank(ranks - 1))
    assert 9 <= progress(run)["step"] < EVALUATED
    assert f"stopped by a signal after step {progress(run)['step']}; rerun the same command to resume from" in said
    if progress(run)["step"] % 3 and progress(run)["step"] % SAVED:
        assert progress(run)["window"]["passes"] > 0

    evaluated = STEPS if ranks == 1 else EVALUATED
    stop(data, ranks, tmp_path, at_step(evaluated), signal.SIGTERM, to_rank(0))
    assert (progress(run)["step"], progress(run)["evaluation_due"]) == (evaluated, True)
    assert evaluated not in [row["step"] for row in rows(run, "evaluate")]

    result = inceptionctl(*command(data, ranks), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in FILES:
        ours, other = (path / "checkpoints" / f"step-{STEPS:08d}" / name for path in (run, theirs))
        assert ours.read_bytes() == other.read_bytes(), name
    same_rows(run, theirs)
    assert (checkpoints / "best").read_text() == (theirs / "checkpoints" / "best").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "by", "code"),
    [(signal.SIGINT, to_command, BACKGROUND, 130), (signal.SIGTERM, to_rank(0), (), 143)],
    ids=["int-to-the-command-in-background", "term-to-a-rank"],
)
def test_a_second_signal_leaves_at_once_whatever_the_ranks_wait_for(
    number: int, send: Callable[[Process, int], None], by: tuple[str, ...], code: int, data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(*command(data, 2), cwd=tmp_path, log=log, by=by) as process:
        wait_for_step(tmp_path / "run", 3, process, log)
        ranks_of(process)[1].send_signal(
            signal.SIGSTOP
        )  # the first one waits for it in a collective call, and would for ten minutes
        send(process, number)
        time.sleep(1.5 * SECONDS_OF_ONE_REQUEST)
        assert process.poll() is None, log.read_text()
        send(process, number)
        assert process.wait(timeout=60) == code, log.read_text()
        assert not left_of(process)
    said = log.read_text()
    assert "Traceback" not in said
    assert "resume with: inceptionctl train run/recipe.yaml --output run --cpu-ranks 2\n" in said


@pytest.mark.parametrize("launched", [False, True])
def test_a_signal_before_there_is_any_rank_loses_nothing(launched: bool, data: Path, tmp_path: Path) -> None:
    def moment(process: Process, log: Path) -> None:
        made = (tmp_path / "run" / "recipe.yaml").exists
        wait_for(lambda: made() and (not launched or psutil.Process(process.pid).children()), process, log)

    said = stop(data, 2, tmp_path, moment, signal.SIGUSR1, to_all)
    assert "stopped by SIGUSR1 before the training began: nothing is lost" in said
    assert "resume with: " in said or not launched
