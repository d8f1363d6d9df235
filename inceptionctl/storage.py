"""Files and folders that are written whole or not at all: a temporary name beside them, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inceptionctl.errors import EnvironmentFault

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old one or the new one whole, also after a power cut.

    Raises EnvironmentFault when the disk is full, read-only or forbidden; the old file is then untouched.
    """
    # A path that is not UTF-8 may be in it: escaped so it is still JSON.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with disk_errors(path), temporary_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under; at the end of the block it is synced and replaces `path`, for readers in one step.

    After an exception `path` is untouched and nothing is left. Raises OSError as the file system does.
    """
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; at the end of the block all that is in it is synced and it becomes `path`, absent or empty by then.

    After an exception nothing is left. Raises OSError as the file system does.
    """
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for parent, _, names in os.walk(temporary):
            for name in (*names, ""):
                sync(Path(parent, name))
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def _beside(path: Path) -> Path:
    # On the same file system, where renaming is one step; hidden, so that a kill leaves nothing that looks whole.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, instead: str = "choose another place with --output") -> Iterator[None]:
    """Turn what a file system can refuse into an EnvironmentFault that names the path and the way out; `instead` where it is the place."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise EnvironmentFault(
                f"no space left while writing {path}", "free some space or quota, then run the same command again to go on"
            ) from None
        if error.errno in _REFUSED:
            raise EnvironmentFault(f"cannot write {path}: {error.strerror}", instead) from None
        raise


def sha256_of(file: Path) -> str:
    """In hexadecimal. Raises OSError as the file system does."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
