"""Small disks of their own for tests that fill one up."""

import subprocess
from pathlib import Path

import pytest


def mount_small(folder: Path, options: str) -> None:
    """Mount a tmpfs on a folder (options: "size=1m"); skips the test where that is not allowed. The caller unmounts it."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {made.stderr.strip()}")
