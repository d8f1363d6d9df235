"""What a figure needs beside it to mean something: hardware, versions, commit, and how busy the machine was."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import inceptionctl
from inceptionctl.cores import usable_cores
from inceptionctl.words import counted


class Hardware(TypedDict):
    """The machine of a measurement."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str


class Facts(TypedDict):
    """What the JSON of a measurement tells besides its figures."""

    made: str
    command: list[str]
    commit: str | None
    hardware: Hardware
    load_average: float
    versions: dict[str, str]


def facts(packages: Sequence[str]) -> Facts:
    """For the JSON of a measurement; packages that are not installed are left out."""
    return {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": usable_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(),
        },
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **_versions(packages)},
    }


def in_words(found: Facts) -> str:
    """One line for people."""
    hardware = found["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    load = f"{found['load_average']:.1f} when it began"
    measured = f"commit {found['commit']}" if found["commit"] else f"version {inceptionctl.__version__}"
    return f"{counted(hardware['cores'], 'core')} of {hardware['cpu']}, load {load}; {versions}; {measured}"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        if match:
            return match[1]
    return platform.machine()


def _commit() -> str | None:
    """Of a checkout; None for an installed package."""
    root = Path(inceptionctl.__path__[0]).parent
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None
