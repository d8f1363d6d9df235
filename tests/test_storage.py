"""Files and folders are there whole or not at all, synced before they take their names, and nothing is left of a failure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inceptionctl.errors import EnvironmentFault
from inceptionctl.storage import disk_errors, temporary_file, temporary_folder, write_atomically
from tests.disks import mount_small


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(b"old")
    with temporary_file(file) as temporary:
        temporary.write_bytes(b"new")
        assert file.read_bytes() == b"old" and temporary.parent == tmp_path and temporary.name.startswith(".")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(KeyboardInterrupt), temporary_file(file) as temporary:
        temporary.write_bytes(b"newer")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    with pytest.raises(ValueError, match="half way"), temporary_folder(folder) as temporary:
        (temporary / "one").write_bytes(b"1")
        raise ValueError("half way")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()  # empty: as good as none
    with temporary_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/one").write_bytes(b"1")
        assert not any(folder.iterdir())
    assert (folder / "inner/one").read_bytes() == b"1" and list(tmp_path.iterdir()) == [folder]
    with disk_errors(folder), pytest.raises(OSError, match="not empty"), temporary_folder(folder):
        pass
    assert (folder / "inner/one").read_bytes() == b"1" and list(tmp_path.iterdir()) == [folder]


def test_everything_is_synced_before_it_takes_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name.replace(str(os.getpid()), 'PID')}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda one, other: (done.append(f"name {Path(other).name}"), rename(one, other)))
    monkeypatch.setattr(os, "replace", lambda one, other: (done.append(f"name {Path(other).name}"), replace(one, other)))
    write_atomically(tmp_path / "file", "text")
    assert done == ["sync .file.PID.tmp", "name file", f"sync {tmp_path.name}"]
    done.clear()
    with temporary_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("a")
        (temporary / "b").mkdir()
        (temporary / "b/c").write_text("c")
    assert done[:4] == ["sync a", "sync .folder.PID.tmp", "sync c", "sync b"]
    assert done[4:] == ["name folder", f"sync {tmp_path.name}"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from inceptionctl.storage import temporary_file
with temporary_file(Path({str(tmp_path / "file")!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    assert all(path.name.startswith(".") for path in tmp_path.iterdir() if path.name != "file")


def test_a_full_disk_is_worded_and_keeps_the_old_file(tmp_path: Path) -> None:
    mount_small(tmp_path, "size=64k")
    try:
        write_atomically(tmp_path / "file", b"old")
        with pytest.raises(EnvironmentFault, match="no space left while writing"):
            write_atomically(tmp_path / "file", bytes(shutil.disk_usage(tmp_path).free + 1))
        assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("name", "why"), [("x" * 300, "File name too long"), ("file/in", "Not a directory"), ("folder", "Is a directory")]
)
def test_what_a_file_system_refuses_is_worded(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentFault, match=why) as raised:
        write_atomically(tmp_path / name, "text")
    assert raised.value.hint == "choose another place with --output"
    with pytest.raises(EnvironmentFault) as raised, disk_errors(tmp_path, "choose another folder"):
        raise PermissionError(13, "Permission denied")
    assert raised.value.hint == "choose another folder"
