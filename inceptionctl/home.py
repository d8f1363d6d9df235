"""A home for a process that has none: containers run under a user that /etc/passwd does not know, batch systems clear the environment."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

from inceptionctl.errors import EnvironmentFault

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass looks before it asks /etc/passwd


def prepare() -> None:
    """Give this process, and those that it starts, a HOME where there is none, and a name to a user that has none.

    torch, DeepSpeed, matplotlib and numba raise KeyError or RuntimeError when they look for their caches otherwise. Raises EnvironmentFault
    where there is no folder for temporary files either.
    """
    if not Path(os.path.expanduser("~")).is_absolute():  # noqa: PTH111  (Path.expanduser raises)
        os.environ["HOME"] = str(_folder())
    if not any(os.environ.get(name) for name in _NAMES) and not _is_known():
        os.environ["USER"] = f"uid{os.getuid()}"


def _is_known() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def _folder() -> Path:
    """The same at every start, so that caches are of use; another one where somebody else has taken it."""
    try:
        folder = Path(tempfile.gettempdir(), f"inceptionctl-home-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        told = folder.lstat()
        ours = stat.S_ISDIR(told.st_mode) and told.st_uid == os.getuid()
        return folder if ours else Path(tempfile.mkdtemp(prefix="inceptionctl-home-"))
    except OSError as fault:
        raise EnvironmentFault(
            f"no HOME, and no folder for temporary files: {fault}", "set HOME or TMPDIR to a folder"
        ) from None
