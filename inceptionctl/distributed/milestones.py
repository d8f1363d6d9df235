"""When a starting process passes which point, noted where `inceptionctl bench start` asks for it and nowhere else."""

from __future__ import annotations

import os
import time

FILE = "INCEPTIONCTL_MILESTONES"


def passed(name: str) -> None:
    """Add rank, name, time of day and this process's processor time to the file that the measurement named."""
    if FILE not in os.environ:
        return
    line = f"{os.environ.get('RANK', '-')} {name} {time.time():.4f} {time.process_time():.4f}\n"
    # One write that appends: lines of several ranks do not mix.
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
