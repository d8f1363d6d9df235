"""Small disks of their own, and quotas, for tests that fill one up."""

import shutil
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


def mount_with_quota(folder: Path, image: Path, bytes_left: int) -> Path:
    """Mount a btrfs that lies in the file `image` on a folder; gives a folder in it with a quota. Skips and unmounts as above.

    Of the file systems that know quotas it is the one that needs nothing in the kernel but itself.
    """
    tools = [tool for tool in ("mkfs.btrfs", "btrfs") if shutil.which(tool) is None]
    if tools:
        pytest.skip(f"needs {' and '.join(tools)} (Debian: btrfs-progs) for a disk with a quota")
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    made = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs the right to mount a btrfs: {made.stderr.strip()}")
    inside = folder / "inside"
    for words in (["subvolume", "create", inside], ["quota", "enable", folder], ["qgroup", "limit", bytes_left, inside]):
        subprocess.run(["btrfs", *map(str, words)], check=True, capture_output=True)
    return inside
