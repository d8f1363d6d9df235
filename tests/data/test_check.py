"""`data check`: counts, sizes, kinds, and every unreadable file named, whatever is in it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.data import probing
from inceptionctl.data.check import check
from inceptionctl.data.imageset import Span
from inceptionctl.data.probing import FileProbe
from inceptionctl.errors import DataError, EnvironmentFault
from tests.data.conftest import SIZES, fill, photo


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def test_a_good_data_set(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int]] = []
    report = check(root, num_threads=2, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20, 20) and calls == sorted(calls)
    train, val = report.splits
    assert (train.split, train.num_images, val.split, val.num_images) == ("train", 13, "val", 7)
    assert train.class_counts == {"class_0": 5, "class_1": 4, "class_2": 4}
    assert (train.images_per_class.min, train.images_per_class.median, train.images_per_class.max) == (4, 4, 5)
    assert train.formats == {"jpeg": 10, "png": 3}
    assert train.bytes == sum(path.stat().st_size for path in (root / "train").glob("*/*"))
    widths = [width_of(path) for path in (root / "train").glob("*/*")]
    assert (train.width.min, train.width.median, train.width.max) == (min(widths), int(np.median(widths)), max(widths))
    assert train.height.max == max(height for _, height in SIZES)
    assert report.num_unreadable == 0 and report.problems == () and train.remarks == ()
    assert capfd.readouterr() == ("", "")


def test_the_report_is_json(root: Path) -> None:
    report = check(root, num_threads=1).to_json()
    again = json.loads(json.dumps(report))
    assert [split["split"] for split in again["splits"]] == ["train", "val"]
    assert again["splits"][0]["width"] == {"min": 64, "median": 97, "max": 200}
    assert again["splits"][1]["unreadable"] == []


def bomb_png() -> bytes:
    """The header of a PNG of 900 megapixels, and next to nothing after it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_every_bad_file_is_named_and_every_good_one_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "train/a", 70, seed=0)
    fill(tmp_path / "val/a", 3, seed=5)
    folder = tmp_path / "train/a"
    whole = (folder / "000.jpg").read_bytes()
    (folder / "000.jpg").write_bytes(whole[:600])
    (folder / "001.jpg").write_bytes(b"")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:200])
    (folder / "003.jpg").write_bytes(bomb_png())
    (folder / "004.jpg").unlink()
    (folder / "004.jpg").symlink_to("nowhere")
    (folder / "069.jpg").write_text("a note")
    (folder / "070.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nonsense")
    report = check(tmp_path, num_threads=2)
    reasons = {Path(bad.path).name: bad.reason for bad in report.splits[0].unreadable}
    assert list(reasons) == ["000.jpg", "001.jpg", "002.png", "003.jpg", "004.jpg", "069.jpg", "070.jpg"]
    assert reasons["001.jpg"] == "the file is empty"
    assert reasons["003.jpg"] == "the header claims 30000 x 30000 pixels, 900 megapixels; 200 is the most"
    assert reasons["004.jpg"] == "the link leads nowhere"
    assert reasons["069.jpg"] == "the file is no image (it starts with b'a note')"
    assert all(reason and "pipeline" not in reason and "\x1b" not in reason for reason in reasons.values())
    assert report.splits[0].num_images == 71 and report.num_unreadable == 7
    assert sum(report.splits[0].formats.values()) == 71
    assert report.splits[1].unreadable == ()
    # The libraries' own complaints do not reach people.
    assert capfd.readouterr() == ("", "")


def test_damage_that_still_decodes_is_remarked(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 4, seed=0)
    fill(tmp_path / "val/a", 1, seed=0)
    damaged = tmp_path / "train/a/001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"left over from another file" + b"\xff\xd9")
    report = check(tmp_path, num_threads=2)
    assert report.num_unreadable == 0
    assert [(Path(one.path).name, "extraneous bytes" in one.reason) for one in report.splits[0].remarks] == [("001.jpg", True)]


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    fill(tmp_path / "val/a", 1, seed=0)
    picture = Image.fromarray(photo(0, 30, 20))
    for name, kind in (("0.jpg", "BMP"), ("1.png", "JPEG"), ("2.jpeg", "WEBP"), ("3.tif", "TIFF"), ("4.bmp", "PNG")):
        picture.save(tmp_path / "train/a" / name, format=kind)
    train = check(tmp_path, num_threads=1).splits[0]
    assert train.unreadable == ()
    assert sorted(train.formats) == ["bmp", "jpeg", "png", "tiff", "webp"]


def test_turned_photographs_are_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(photo(0, 50, 30)).save(tmp_path / split / "a/0.jpg", exif=exif)
    train = check(tmp_path, num_threads=1).splits[0]
    assert (train.width.max, train.height.max) == (30, 50)


def test_splits_that_do_not_fit_are_a_problem_and_missing_ones_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 1, seed=0)
    with pytest.raises(DataError, match="has no val folder"):
        check(tmp_path, num_threads=1)
    fill(tmp_path / "val/b", 1, seed=0)
    (problem,) = check(tmp_path, num_threads=1).problems
    assert "only in train/: a; only in val/: b" in problem


def test_a_split_where_nothing_decodes(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 1, seed=0)
    (tmp_path / "val/a").mkdir(parents=True)
    (tmp_path / "val/a/0.png").write_bytes(b"")
    val = check(tmp_path, num_threads=1).splits[1]
    assert (val.width.min, val.height.median) == (None, None)


def test_the_collection_of_damaged_images(tmp_path: Path, torture: Path) -> None:
    shutil.copytree(torture, tmp_path / "train/bad")
    fill(tmp_path / "train/good", 5, seed=0)
    fill(tmp_path / "val/good", 1, seed=0)
    train = check(tmp_path, num_threads=2).splits[0]
    reasons = {Path(bad.path).name: bad.reason for bad in train.unreadable}
    # Four damaged files that DALI decodes without an error: the first with a remark, the last two are whole in their pixels.
    silent = {"bad_huffman.jpg", "premature-end.png", "png_decompression_dos.png", "unknown_compression_method.png"}
    assert set(reasons) == {path.name for path in torture.iterdir()} - silent
    assert "749 megapixels" in reasons["large.jpg"] and "4,128 megapixels" in reasons["issue205.jpg"]
    assert "bad_huffman.jpg" in {Path(one.path).name for one in train.remarks}


def test_a_decoder_that_crashes_costs_one_file(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text(
        "import json, os, sys\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    paths = json.loads(line)\n"
        "    if any('class_1/002' in path for path, *_ in paths): os.abort()\n"
        "    print(json.dumps([{'height': 3, 'width': 4} for _ in paths]), flush=True)\n"
    )
    monkeypatch.setattr(probing, "_PROGRAM", (str(crashing),))
    train = check(root, num_threads=1).splits[0]
    assert [(Path(bad.path).name, bad.reason) for bad in train.unreadable] == [("002.png", "the decoder crashed on it")]
    assert (train.width.min, train.width.max, train.height.max) == (4, 4, 3)


def test_a_process_that_does_not_start_is_the_machines_fault(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setattr(probing, "_PROGRAM", (str(broken),))
    with pytest.raises(EnvironmentFault, match=r"does not start: ImportError: libcudart\.so\.13"):
        check(root, num_threads=1)


def test_no_process_is_left(root: Path) -> None:
    probe = FileProbe(num_threads=1)
    probe.look_into([Span(bytes(path)) for path in (root / "val/class_0").iterdir()])
    child = probe._child
    assert child is not None
    probe.close()
    assert child.returncode is not None
    assert not Path(f"/proc/{child.pid}").exists()
    assert probe.look_into([]) == []


def test_names_that_are_no_utf8_are_read_and_shown(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 1, seed=0)
    fill(tmp_path / "val/a", 1, seed=0)
    odd = bytes(tmp_path) + b"/train/a/\xff\xfe.jpg"
    Path(os.fsdecode(odd)).write_bytes((tmp_path / "train/a/000.jpg").read_bytes())
    worse = bytes(tmp_path) + b"/train/a/\xff.jpg"
    Path(os.fsdecode(worse)).write_bytes(b"")
    train = check(tmp_path, num_threads=1).splits[0]
    assert [Path(bad.path).name for bad in train.unreadable] == ["\\xff.jpg"]
    assert sys.getfilesystemencoding() == "utf-8"
