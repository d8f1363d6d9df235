"""One file for all ranks of a machine: the same order as everybody's own, whatever lies there already."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inceptionctl.data import sampler as sharing
from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import Sampler, permutation, shared_permutation
from tests.data.test_train_loader import stream

RANK = """
import sys
from inceptionctl.data.sampler import shared_permutation
print(hash(shared_permutation(3, 5, 300_000).tobytes()))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharing.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"inceptionctl-{os.getuid()}"


def refused(*_: object) -> None:
    raise AssertionError("worked out again")


def test_it_is_the_permutation_and_worked_out_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = permutation(3, 2, 1000)
    assert np.array_equal(shared_permutation(3, 2, 1000), expected)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(sharing, "permutation", refused)
    again = shared_permutation(3, 2, 1000)
    assert np.array_equal(again, expected) and not again.flags.writeable
    with pytest.raises(AssertionError, match="worked out again"):
        shared_permutation(4, 2, 1000)


def test_ranks_that_start_together_agree(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONHASHSEED": "1"}
    ranks = [subprocess.Popen([sys.executable, "-c", RANK], env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({rank.communicate()[0] for rank in ranks}) == 1
    assert [rank.returncode for rank in ranks] == [0] * 4
    left = sorted(file.name for file in (tmp_path / f"inceptionctl-{os.getuid()}").iterdir())
    assert left == ["lock", "order-0000000000000003-300000-5.int32"]


def test_a_file_cut_short_is_made_anew(folder: Path) -> None:
    expected = shared_permutation(3, 0, 1000).copy()
    (file,) = folder.glob("order-*")
    os.truncate(file, 400)
    assert np.array_equal(shared_permutation(3, 0, 1000), expected)


def test_earlier_epochs_and_forgotten_files_go(folder: Path) -> None:
    first = shared_permutation(3, 0, 1000)
    shared_permutation(9, 0, 1000)
    old = folder / "order-0000000000000008-77-4.int32"
    old.write_bytes(b"")
    os.utime(old, (time.time() - 30 * 24 * 3600,) * 2)
    (folder / ".order-0000000000000003-1000-1.int32.4711.tmp").write_bytes(b"of a rank that was killed")
    shared_permutation(3, 1, 1000)
    assert sorted(file.name for file in folder.glob("order-*")) == [
        "order-0000000000000003-1000-1.int32",
        "order-0000000000000009-1000-0.int32",
    ]
    assert not list(folder.glob(".*"))
    assert np.array_equal(first, permutation(3, 0, 1000))  # still mapped


def test_without_a_place_for_it_the_order_is_the_same(folder: Path) -> None:
    folder.write_text("in the way")
    assert np.array_equal(shared_permutation(3, 0, 1000), permutation(3, 0, 1000))


def test_a_folder_of_somebody_else_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = shared_permutation(3, 0, 1000).copy()
    (file,) = folder.glob("order-*")
    file.write_bytes(bytes(4000))
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, 12345)
    assert np.array_equal(shared_permutation(3, 0, 1000), expected)


def test_a_loader_of_many_images_takes_it(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_split(root, "train")
    expected = stream(images)
    monkeypatch.setattr(sharing, "WORTH_SHARING", 13)
    found = stream(images, 2, micro_batch_size=3)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    assert list(folder.glob("order-*"))
    shared = Sampler(5, 13).at(0, 13)[1].tolist()
    monkeypatch.undo()
    assert shared == Sampler(5, 13).at(0, 13)[1].tolist()
