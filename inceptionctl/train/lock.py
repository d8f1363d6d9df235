"""Who trains in a run directory: one process at a time, which the kernel's lock on `.lock` tells, and which names itself in it. No torch."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from inceptionctl.errors import CheckpointError
from inceptionctl.run import Run
from inceptionctl.storage import disk_errors

SECONDS_OF_A_LOOK = 0.5  # somebody who only wants to know holds the lock for less


def take_lock(run: Run) -> tuple[IO[str], list[str]]:
    """Hold the run directory while training in it, and remark on a holder that has died: the kernel has released its lock.

    Raises CheckpointError when another process holds it.
    """
    with disk_errors(run.path):
        file = run.lock_file.open("a+", encoding="utf-8")
    if not _is_locked_by_us(file):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise held(run, holder)
    file.seek(0)
    left = file.read().strip()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    if not left:
        return file, []
    # Some network file systems keep locks within a host; a process of another one may live, and nobody here can tell.
    elsewhere = "" if left.endswith(f" on {socket.gethostname()}") else "; make sure that it no longer runs"
    return file, [f"{run.path}: stale lock of {left}{elsewhere}"]


def take_claim(path: Path) -> IO[str] | None:
    """Hold a file's lock until it is closed, for who is about to train something; None where somebody else holds it."""
    with disk_errors(path):
        file = path.open("a", encoding="utf-8")
    if _is_locked_by_us(file):
        return file
    file.close()
    return None


def _is_locked_by_us(file: IO[str]) -> bool:
    deadline = time.monotonic() + SECONDS_OF_A_LOOK
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(SECONDS_OF_A_LOOK / 10)
        else:
            return True


def lock_of(run: Run) -> tuple[bool, str]:
    """(whether somebody trains in a run, who has named themselves in its lock). A name without a lock is that of a dead process.

    Where a file system keeps locks within a host, a living process of another host looks dead.
    """
    try:
        with run.lock_file.open(encoding="utf-8", errors="replace") as file:
            try:
                # Shared, and for a moment: whoever wants to train tries for longer than that.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, file.read().strip()
            return False, file.read().strip()
    except OSError:
        return False, ""


def check_free(run: Run) -> None:
    """Raise CheckpointError when somebody trains in a run directory."""
    is_held, holder = lock_of(run)
    if is_held:
        raise held(run, holder)


def held(run: Run, holder: str) -> CheckpointError:
    """The error of a run directory that another process trains in."""
    return CheckpointError(
        f"{run.path} is being trained by {holder or 'another process'}",
        f"`inceptionctl watch {run.path}` shows it; to train the same beside it, name another directory with --output",
    )
