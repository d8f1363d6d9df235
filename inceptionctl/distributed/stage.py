"""One command as a step of another: `inceptionctl ensemble` trains and evaluates its members so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from inceptionctl.distributed.signals import PIPE_OF_COMMAND, blocked, heard, mute_lost_terminal
from inceptionctl.errors import EnvironmentFault, ResumeLater


def run_stage(arguments: Sequence[str]) -> int:
    """Run `inceptionctl ARGUMENTS` to its end in a process of its own; its exit code. What it prints goes to stderr.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP are passed on, and so is the end of this process. Raises ResumeLater when one came but the command had
    finished all the same, and EnvironmentFault when it was killed from outside.
    """
    asked: list[str] = []
    # Born with them blocked: one that comes before its handlers waits for them.
    with blocked():
        process = subprocess.Popen(
            # -P keeps the working directory off sys.path, where a user's own `pipelines` folder would shadow ours.
            [sys.executable, "-P", "-m", "inceptionctl", *arguments],
            stdin=subprocess.PIPE,
            stdout=2,  # stdout is for the result of this command
            env=os.environ | {PIPE_OF_COMMAND: "1"},
        )

        def pass_on(number: int, _: FrameType | None) -> None:
            asked.append(signal.Signals(number).name)
            if number == signal.SIGHUP:
                mute_lost_terminal()
            process.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in heard()}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if process.stdin:
            process.stdin.close()
    if code < 0:
        raise EnvironmentFault(
            f"`inceptionctl {arguments[0]}` was ended by {signal.Signals(-code).name}",
            "the kernel kills for memory with SIGKILL (`dmesg`); rerun the same command to resume",
        )
    if asked and code == 0:
        raise ResumeLater(f"stopped by {asked[0]} when `inceptionctl {arguments[0]}` was done: nothing is lost")
    return code
