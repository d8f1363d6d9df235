"""`data check`: counts, sizes, formats, and every bad or odd image named, whatever is in it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.data.audit import probe
from inceptionctl.data.audit.check import check
from inceptionctl.data.audit.probe import FileProbe
from inceptionctl.data.imageset import Span
from inceptionctl.errors import EnvironmentFault
from tests.data.conftest import SIZES, fill, photo


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def test_a_good_data_set(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int]] = []
    report = check(root, num_threads=2, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 20) and calls[-1] == (20, 20) and calls == sorted(calls)
    train, val = report.splits
    assert (train.split, train.num_images, val.split, val.num_images) == ("train", 13, "val", 7)
    assert train.class_counts == {"class_0": 5, "class_1": 4, "class_2": 4}
    assert (train.images_per_class.min, train.images_per_class.median, train.images_per_class.max) == (4, 4, 5)
    assert train.formats == {"jpeg": 10, "png": 3}
    assert train.bytes == sum(path.stat().st_size for path in (root / "train").glob("*/*"))
    widths = [width_of(path) for path in (root / "train").glob("*/*")]
    assert (train.width.min, train.width.median, train.width.max) == (min(widths), int(np.median(widths)), max(widths))
    assert train.height.max == max(height for _, height in SIZES)
    assert report.bad == [] and report.problems == () and train.odd == () and train.found == {}
    assert report.duplicates.groups == ()
    assert capfd.readouterr() == ("", "")


def test_the_report_is_json(root: Path) -> None:
    report = check(root, num_threads=1).to_json()
    again = json.loads(json.dumps(report))
    assert [split["split"] for split in again["splits"]] == ["train", "val"]
    assert again["splits"][0]["width"] == {"min": 64, "median": 97, "max": 200}
    assert again["splits"][1]["bad"] == [] and again["duplicates"] == {"groups": []}


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
    reasons = {Path(bad.name).name: bad.reason for bad in report.splits[0].bad}
    assert list(reasons) == ["000.jpg", "001.jpg", "002.png", "003.jpg", "004.jpg", "069.jpg", "070.jpg"]
    assert reasons["000.jpg"].startswith("truncated: ") and reasons["002.png"].startswith("truncated: ")
    assert reasons["001.jpg"] == "empty: the file is empty"
    assert reasons["003.jpg"] == "huge: the header claims 30000 x 30000 pixels, 900 megapixels; 200 is the most"
    assert reasons["004.jpg"] == "missing: the link leads nowhere"
    assert reasons["069.jpg"] == "no image: the file is no image (it starts with b'a note')"
    assert all(reason and "pipeline" not in reason and "\x1b" not in reason for reason in reasons.values())
    assert report.splits[0].num_images == 71 and len(report.bad) == 7
    assert sum(report.splits[0].formats.values()) == 71
    assert report.splits[1].bad == ()
    # The libraries' own complaints do not reach people.
    assert capfd.readouterr() == ("", "")


def test_damage_that_still_decodes_is_remarked(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 4, seed=0)
    fill(tmp_path / "val/a", 1, seed=0)
    damaged = tmp_path / "train/a/001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"left over from another file" + b"\xff\xd9")
    report = check(tmp_path, num_threads=2)
    assert report.bad == []
    (odd,) = report.splits[0].odd
    assert odd.name == "train/a/001.jpg" and "extraneous bytes" in odd.remarks["complaint"]


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    fill(tmp_path / "val/a", 1, seed=0)
    picture = Image.fromarray(photo(0, 30, 20))
    for name, kind in (("0.jpg", "BMP"), ("1.png", "JPEG"), ("2.jpeg", "WEBP"), ("3.tif", "TIFF"), ("4.bmp", "PNG")):
        picture.save(tmp_path / "train/a" / name, format=kind)
    picture.save(tmp_path / "train/a/5.jpg", format="PPM")
    picture.save(tmp_path / "train/a/6.jpg", format="AVIF")
    train = check(tmp_path, num_threads=1).splits[0]
    assert sorted(train.formats) == ["avif", "bmp", "jpeg", "png", "pnm", "tiff", "webp"]
    assert [bad.reason for bad in train.bad] == ["unsupported: AVIF is not decoded"]
    labels = {odd.name: odd.remarks.get("mislabelled") for odd in train.odd}
    assert labels.pop("train/a/3.tif") is None
    assert labels["train/a/0.jpg"] == "bmp under the name of a jpeg" and None not in labels.values() and len(labels) == 5


def test_turned_photographs_are_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(photo(0, 50, 30)).save(tmp_path / split / "a/0.jpg", exif=exif)
    train = check(tmp_path, num_threads=1).splits[0]
    assert (train.width.max, train.height.max) == (30, 50)
    assert train.odd[0].remarks["rotated"] == "EXIF orientation 6"
    lying = check(tmp_path, num_threads=1, exif_orientation=False).splits[0]
    assert (lying.width.max, lying.height.max) == (50, 30)


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
    reasons = {Path(bad.name).name: bad.reason for bad in train.bad}
    odd = {Path(item.name).name: item.remarks for item in train.odd}
    # Of one no decoder and no checksum says that it is damaged: it is complained about.
    assert set(reasons) == {path.name for path in torture.iterdir()} - {"bad_huffman.jpg"} and len(reasons) == 18
    assert "extraneous bytes" in odd["bad_huffman.jpg"]["complaint"]
    kinds = {name: reason.partition(":")[0] for name, reason in reasons.items()}
    for kind, names in BAD_KINDS.items():
        assert {name for name, found in kinds.items() if found == kind} == names
    assert "749 megapixels" in reasons["whole_749_megapixels.jpg"]
    assert "4,128 megapixels" in reasons["claims_4_gigapixels.jpg"]
    # In words, not in those of a library's own sources.
    assert not any(word in reason for reason in reasons.values() for word in ("\x1b", "imgcodecs", "pipeline", "nvImageCodec"))


BAD_KINDS = {
    "huge": {"whole_749_megapixels.jpg", "claims_4_gigapixels.jpg", "claims_800_gigapixels.png"},
    "empty": {"empty.JPEG"},
    "no image": {"text.jpg"},
    "unsupported": {"rgb.u2.jpg", "rgba.u2.jpg"},
    "damaged": {"unknown_compression_method.png", "png_decompression_dos.png"},
}


def test_every_odd_image_of_the_collection_is_said_to_load(tmp_path: Path, odd_ok: Path) -> None:
    shutil.copytree(odd_ok, tmp_path / "train/odd")
    fill(tmp_path / "val/odd", 1, seed=0)
    train = check(tmp_path, num_threads=2).splits[0]
    assert train.bad == () and train.num_images == len(list(odd_ok.iterdir())) == 39
    named = {Path(item.name).name: set(item.remarks) for item in train.odd}
    for kind, names in ODD_KINDS.items():
        assert {name for name, kinds in named.items() if kind in kinds} == names, kind


ODD_KINDS = {
    "rotated": {f"hopper_orientation_{i}.jpg" for i in (4, 5, 7)} | {"large_turned.jpg"},
    "cmyk": {"cmyk_pytorch.jpg", "rgba.u1.jpg"},
    "16-bit": {"rgb_pytorch16.png", "rgbalpha_pytorch16.png"},
    "palette": {"palette_pytorch.png", "g10n3p04.png"},
    "mislabelled": {"bmp_inside.jpg"},
    "tiny": {"rgba.u1.jpg", "icc-after-SOF.jpg", "multiple_exif.jpg"},
}


def test_a_header_of_gigapixels_takes_no_memory(tmp_path: Path, torture: Path) -> None:
    """4.1 gigapixels are 12 GB of RGB, 749 megapixels 2.2 GB."""
    names = ("claims_4_gigapixels.jpg", "whole_749_megapixels.jpg", "claims_800_gigapixels.png")
    spans = [Span(bytes(torture / name)) for name in names]
    with closing(FileProbe(num_threads=1)) as probe:
        assert all(found.reason for found in probe.look_into(spans))
        assert probe._child is not None
        status = Path(f"/proc/{probe._child.pid}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak < 2_000_000, f"{peak} kB"


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 2, seed=0)
    fill(tmp_path / "val/a", 1, seed=0)
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    (tmp_path / "train/a/folder.jpg").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "train/a/to_folder.jpg").symlink_to(tmp_path / "elsewhere")
    train = check(tmp_path, num_threads=1).splits[0]
    assert {bad.name: bad.reason for bad in train.bad} == {
        "train/a/pipe.jpg": "no file: it is a pipe or a device, not a file",
    }
    span = Span(bytes(tmp_path / "elsewhere"))
    with closing(FileProbe(num_threads=1)) as probe:
        assert probe.look_into([span])[0].reason == "it is a folder, not a file"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Root may read every file, but not as the user of a namespace of its own."""
    somebody = ["unshare", "--user", "--map-user=54321"] if os.geteuid() == 0 else []
    if somebody and subprocess.run([*somebody, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may read every file, and user namespaces are not permitted here")
    fill(tmp_path / "train/a", 2, seed=0)
    fill(tmp_path / "val/a", 1, seed=0)
    (tmp_path / "train/a/000.jpg").chmod(0)
    code = """
import sys
from pathlib import Path
from inceptionctl.data.audit.check import check
print([bad.reason for bad in check(Path(sys.argv[1]), num_threads=1).bad])
"""
    told = subprocess.run([*somebody, sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "['no file: permission denied']", told.stderr


def test_what_comes_out_wrong_is_bad_although_it_decodes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(photo(0, 50, 40)).save(tmp_path / split / "a/0.png")
    folder = tmp_path / "train/a"
    Image.fromarray(photo(0, 50, 40)).convert("L").convert("F").save(folder / "1.tif")
    whole = bytearray((folder / "0.png").read_bytes())
    text = b"tEXt" + b"Comment\0a picture"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text) ^ 1)
    (folder / "2.png").write_bytes(whole[:-12] + chunk + whole[-12:])  # after the pixels
    reasons = [bad.reason for bad in check(tmp_path, num_threads=1).bad]
    assert reasons[0] == "colours: samples are floating-point numbers, which come out as white"
    assert reasons[1].startswith("damaged: it decodes, but its metadata or checksums are wrong, and Pillow refuses it: ")


def test_a_webp_that_the_decoders_stumble_over_is_not_called_cut_short(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
    for seed in range(8):
        picture = Image.fromarray(photo(seed, 50, 40))
        picture.save(tmp_path / f"train/a/{seed}.webp", lossless=True, exif=exif)
        picture.save(tmp_path / f"val/a/{seed}.webp", lossless=True)
    cut = (tmp_path / "train/a/0.webp").read_bytes()[:-100]
    (tmp_path / "train/a/cut.webp").write_bytes(cut)
    train, val = check(tmp_path, num_threads=1).splits
    # Odd lengths of the chunk before the EXIF: should a DALI take them all, docs/data.md has a sentence less.
    odd = [i for i in range(8) if (tmp_path / f"train/a/{i}.webp").read_bytes()[34] % 2]
    assert odd and [bad.name for bad in train.bad] == [*(f"train/a/{i}.webp" for i in odd), "train/a/cut.webp"]
    assert {bad.kind for bad in train.bad[:-1]} == {"unsupported"} and train.bad[-1].kind == "truncated" and val.bad == ()


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, seed in (("a", 0), ("b", 10)):
            fill(tmp_path / split / label, 2, seed=seed + (100 if split == "val" else 0))
    shutil.copy(tmp_path / "train/a/000.jpg", tmp_path / "train/a/copy.jpg")
    shutil.copy(tmp_path / "train/a/001.jpg", tmp_path / "train/b/other.jpg")
    shutil.copy(tmp_path / "val/b/000.jpg", tmp_path / "train/b/leak.jpg")
    for label in ("a", "b"):  # two empty files have the same bytes, and are bad instead
        (tmp_path / "train" / label / "empty.jpg").write_bytes(b"")
    report = check(tmp_path, num_threads=1)
    groups = [[(copy.split, copy.label, copy.name) for copy in group] for group in report.duplicates.groups]
    assert groups == [
        [("train", "a", "train/a/000.jpg"), ("train", "a", "train/a/copy.jpg")],
        [("train", "a", "train/a/001.jpg"), ("train", "b", "train/b/other.jpg")],
        [("train", "b", "train/b/leak.jpg"), ("val", "b", "val/b/000.jpg")],
    ]
    leak, contradiction = report.problems
    assert leak.startswith("LEAK: 1 of the validation images is a training image too") and "train/b/leak.jpg" in leak
    assert contradiction.startswith("pictures that lie in several classes, byte for byte: 1;")
    assert [name for name, _ in report.excluded([])] == ["train/a/empty.jpg", "train/b/empty.jpg"]
    assert [name for name, _ in report.excluded(["duplicate"])] == [
        "train/a/empty.jpg",
        "train/b/empty.jpg",
        "train/a/copy.jpg",
        "train/a/001.jpg",
        "train/b/other.jpg",
        "train/b/leak.jpg",
    ]


def test_a_decoder_that_crashes_costs_one_file(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text(
        "import json, os, sys\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    paths = json.loads(line)\n"
        "    if any('class_1/002' in path for path, *_ in paths): os.abort()\n"
        "    print(json.dumps([[9, 'jpeg', 3, 4] for _ in paths]), flush=True)\n"
    )
    monkeypatch.setattr(probe, "_PROGRAM", (str(crashing),))
    train = check(root, num_threads=1).splits[0]
    assert [(bad.name, bad.reason) for bad in train.bad] == [("train/class_1/002.png", "corrupt: the decoder crashed on it")]
    assert (train.width.min, train.width.max, train.height.max) == (4, 4, 3)


def test_a_process_that_does_not_start_is_the_machines_fault(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setattr(probe, "_PROGRAM", (str(broken),))
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
    assert [bad.name for bad in train.bad] == ["train/a/\\xff.jpg"]
    assert sys.getfilesystemencoding() == "utf-8"
