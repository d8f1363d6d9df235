"""Commands as steps of another, one or several at once: `inceptionctl ensemble` and `study` train and evaluate so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from inceptionctl.distributed.shares import Share
from inceptionctl.distributed.signals import PIPE_OF_COMMAND, blocked, heard, mute_lost_terminal
from inceptionctl.errors import EnvironmentFault, ResumeLater

SECONDS_BETWEEN_LOOKS = 0.1
Step = subprocess.Popen[bytes]


class Steps:
    """Processes of `inceptionctl`, to which this one passes on SIGINT, SIGTERM, SIGUSR1 and SIGHUP, and its own end.

    Inside `with`; handlers belong to a process, so there is one set of them for all steps.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Names of the signals that have come."""
        self._running: list[Step] = []

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._pass_on) for number in heard()}
        return self

    def __exit__(self, *_: object) -> None:
        for step in self._running:  # only after an error here: they save and leave
            _close(step)
        while self._running:
            self.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, arguments: Sequence[str], share: Share | None = None, log: Path | None = None) -> Step:
        """Start `inceptionctl ARGUMENTS` on a share of this machine. What it prints is added to the file `log`, else goes to stderr."""
        share = share or Share()
        # Born with them blocked: one that comes before its handlers waits for them.
        with blocked(), _pinned(share.cores), log.open("ab") if log else contextlib.nullcontext() as file:
            step = subprocess.Popen(
                # -P keeps the working directory off sys.path, where a user's own `pipelines` folder would shadow ours.
                [sys.executable, "-P", "-m", "inceptionctl", *arguments],
                stdin=subprocess.PIPE,
                stdout=file or 2,  # stdout is for the result of this command
                stderr=file,
                env=os.environ | {PIPE_OF_COMMAND: "1"} | share.environment,
            )
            self._running.append(step)
            if self.asked:  # it came when this one was about to be started
                step.send_signal(signal.Signals[self.asked[0]])
        return step

    def wait(self) -> tuple[Step, int]:
        """The next step that ends, and its exit code; minus a signal's number where one was killed."""
        while True:
            for step in self._running:
                if step.poll() is not None:
                    self._running.remove(step)
                    _close(step)
                    return step, step.returncode
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.asked.append(signal.Signals(number).name)
        if number == signal.SIGHUP:
            mute_lost_terminal()
        for step in self._running:
            step.send_signal(number)


def run_stage(arguments: Sequence[str]) -> int:
    """Run `inceptionctl ARGUMENTS` to its end as the only step; its exit code.

    Raises ResumeLater when a signal came but the command had finished all the same, and EnvironmentFault when it was killed from outside.
    """
    with Steps() as steps:
        steps.start(arguments)
        _, code = steps.wait()
    if code < 0:
        raise killed(arguments[0], -code)
    if steps.asked and code == 0:
        raise ResumeLater(f"stopped by {steps.asked[0]} when `inceptionctl {arguments[0]}` was done: nothing is lost")
    return code


def killed(verb: str, number: int) -> EnvironmentFault:
    """The error of a step that a signal has ended."""
    return EnvironmentFault(
        f"`inceptionctl {verb}` was ended by {signal.Signals(number).name}",
        "the kernel kills for memory with SIGKILL (`dmesg`); rerun the same command to resume",
    )


def _close(step: Step) -> None:
    if step.stdin:
        step.stdin.close()


@contextlib.contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Processes started here are born on these cores; without any, on those of this process."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, before)
