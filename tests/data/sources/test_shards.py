"""WebDataset shards: whatever wrote them, every sample is found with its name, label and bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.sources import index_cache, shards, tars
from inceptionctl.errors import DataError

Members = Iterable[tuple[str, bytes]]
SAMPLES = [(f"cat/{i:03d}.jpg", bytes([i]) * (100 + 300 * i)) for i in range(5)]


def write_tar(file: Path, members: Members, form: int = tarfile.GNU_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def labelled(members: Members, label: int) -> list[tuple[str, bytes]]:
    return [one for name, content in members for one in ((name, content), (name[:-3] + "cls", b"%d\n" % label))]


def listed(file: Path) -> list[tuple[bytes, bytes]]:
    with shards.opened(file) as descriptor:
        return [(one.name, os.pread(descriptor, one.size, one.offset)) for one in tars.members(descriptor, str(file))]


LONG = "folder-" * 12 + "/" + "image-" * 30 + ".jpg"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_form_are_found(tmp_path: Path, form: int) -> None:
    names = ["a/1.jpg", "ü/ß (2).jpg", "p" * 90 + "/" + "q" * 60 + ".jpg", "empty.jpg"]
    names += [] if form == tarfile.USTAR_FORMAT else [LONG]
    members = [(name, os.urandom(i * 700)) for i, name in enumerate(reversed(names))]
    assert listed(write_tar(tmp_path / "x.tar", members, form)) == [(name.encode(), content) for name, content in members]


def test_members_of_gnu_tar_itself_are_found(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep" / ("n" * 200 + ".jpg")).write_bytes(b"long")
    (tmp_path / "in/a.jpg").write_bytes(b"short" * 500)
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    for form in ("gnu", "ustar", "pax", "v7"):
        left_out = ["--exclude=n*"] if form in ("ustar", "v7") else []
        made = tmp_path / f"{form}.tar"
        subprocess.run(["tar", "-C", tmp_path, f"--format={form}", *left_out, "--sort=name", "-cf", made, "in"], check=True)
        expected = [(b"in/a.jpg", b"short" * 500)] + ([] if left_out else [(b"in/deep/" + b"n" * 200 + b".jpg", b"long")])
        assert listed(made) == expected


@pytest.mark.parametrize("cut", [1, 512, 700, 2000])
def test_a_tar_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    file = write_tar(tmp_path / "train-000000.tar", SAMPLES)
    end = max(offset + size for _, offset, size in _places(file))
    os.truncate(file, end - cut)
    with pytest.raises(DataError, match=r"train-000000\.tar is cut short"):
        listed(file)


def _places(file: Path) -> list[tars.TarMember]:
    with shards.opened(file) as descriptor:
        return list(tars.members(descriptor, str(file)))


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/x.tar").write_bytes(b"no tar " * 1000)
    with pytest.raises(DataError, match=r"x\.tar is no tar file"):
        open_split(tmp_path, "train")
    whole = write_tar(tmp_path / "train/x.tar", SAMPLES).read_bytes()
    (tmp_path / "train/x.tar").write_bytes(whole[:1024] + b"!" * 512 + whole[1536:])
    with pytest.raises(DataError, match="is damaged: no member begins at byte 1024"):
        open_split(tmp_path, "train")


@pytest.mark.parametrize("layout", ["train/{}.tar", "train-00000{}.tar", "imagenet1k-train-00{}.tar"])
def test_shards_are_found_and_read_at_random(tmp_path: Path, layout: str) -> None:
    dogs = [(name.replace("cat", "dog"), content[::-1] + b"!") for name, content in SAMPLES]
    for number, (members, label) in enumerate(((SAMPLES, 1), (dogs, 0))):
        write_tar(tmp_path / layout.format(number), labelled(members, label))
    (tmp_path / "classes.txt").write_text("zebra\ncat\n")
    images = open_split(tmp_path, "train")
    assert images.classes == ("zebra", "cat")
    assert images.labels.tolist() == [1] * 5 + [0] * 5
    assert [images.read(i) for i in (7, 0, 9, 4)] == [dogs[2][1], SAMPLES[0][1], dogs[4][1], SAMPLES[4][1]]
    assert images.name(7) == f"{tmp_path / layout.format(1)}!dog/002.jpg"
    picked = images.picked([9, 1])
    assert [picked.read(i) for i in range(2)] == [dogs[4][1], SAMPLES[1][1]] and picked.labels.tolist() == [0, 1]


def test_labels_come_from_json_or_folders_too(tmp_path: Path) -> None:
    named = [("1.jpg", b"x"), ("1.json", json.dumps({"label": "wolf", "id": 7}).encode()), ("1.txt", b"a caption")]
    named += [("2.png", b"y"), ("2.json", b'{"cls": "ape"}')]
    write_tar(tmp_path / "train/0.tar", named)
    images = open_split(tmp_path, "train")
    assert images.classes == ("ape", "wolf") and images.labels.tolist() == [1, 0]
    write_tar(tmp_path / "val/0.tar", [("ape/1.jpg", b"x"), ("wolf/2.JPEG", b"y"), ("wolf/3.jpg", b"z")])
    val = open_split(tmp_path, "val")
    assert val.classes == ("ape", "wolf") and val.labels.tolist() == [0, 1, 1]
    open_data(tmp_path, 2)


def test_numbers_without_names_name_themselves(tmp_path: Path) -> None:
    write_tar(tmp_path / "train/0.tar", labelled(SAMPLES, 2))
    assert open_split(tmp_path, "train").classes == ("0", "1", "2")
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"labels from 2 to 2, but .*names\.txt names 2"):
        open_split(tmp_path, "train", class_names=tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x"), ("1.cls", b"cat")], r"the label b'cat' in its \.cls is no whole number"),
        ([("1.jpg", b"x"), ("1.json", b"{}")], r"0\.tar!1\.jpg: its \.json tells no label"),
        ([("1.jpg", b"x"), ("1.json", b"[1]")], "tells no label"),
        ([("1.jpg", b"x")], "has no label"),
        ([("1.jpg", b"x"), ("1.png", b"x"), ("1.cls", b"1")], r"two images in one sample: 1\.jpg and 1\.png"),
        ([("1.jpg", b"x"), ("1.cls", b"1"), ("a/2.jpg", b"x")], "some labels .* are numbers and some are names"),
        ([("1.txt", b"x"), ("1.cls", b"1")], "hold no images"),
    ],
)
def test_samples_without_use_are_refused(tmp_path: Path, members: Members, message: str) -> None:
    write_tar(tmp_path / "train/0.tar", members)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "train")


def test_dalis_index_is_used_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tar(tmp_path / "train/0.tar", labelled(SAMPLES, 1))
    index = file.with_suffix(".idx")
    subprocess.run([sys.executable, "-m", "wds2idx", file, index], check=True, capture_output=True)  # comes with DALI
    assert index.read_text().startswith("v1.2 5\n")
    plain = shards._ShardIndex(file)
    with monkeypatch.context() as without:
        without.setattr(shards, "members", lambda *_: pytest.fail("the shard was read in spite of its index"))
        indexed = shards._ShardIndex(file)
    images = _places(file)[::2]
    assert indexed.offsets.tolist() == plain.offsets.tolist() == [image.offset for image in images]
    assert indexed.sizes.tolist() == plain.sizes.tolist() == [image.size for image in images]
    assert plain.labels == indexed.labels == [1] * 5
    # Another shard, or a newer one: the index is passed over.
    write_tar(file, labelled(SAMPLES[2:], 1))
    os.utime(file, ns=(1, 1))
    assert len(shards._ShardIndex(file).labels) == 3
    os.utime(index, ns=(0, 0))
    assert len(shards._ShardIndex(file).labels) == 3


def test_a_kept_index_is_used_until_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    write_tar(tmp_path / "train/0.tar", labelled(SAMPLES, 1))
    first = open_split(tmp_path, "train")
    assert (tmp_path / ".inceptionctl/train.index").is_file()
    with monkeypatch.context() as without:
        without.setattr(shards, "_ShardIndex", lambda *_: pytest.fail("the shard was read in spite of the index"))
        again = open_split(tmp_path, "train")
    assert [again.read(i) for i in range(5)] == [content for _, content in SAMPLES] == [first.read(i) for i in range(5)]
    assert again.classes == first.classes and again.name(3) == first.name(3)
    assert again.labels.tolist() == first.labels.tolist()
    write_tar(tmp_path / "train/0.tar", labelled(SAMPLES[::-1], 0))
    changed = open_split(tmp_path, "train")
    assert changed.classes == ("0",) and changed.read(0) == SAMPLES[4][1]


def test_a_shard_cut_short_after_indexing_is_named(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "train/0.tar", labelled(SAMPLES, 0))
    images = open_split(tmp_path, "train")
    os.truncate(file, int(images.span(4).offset) + 10)
    with pytest.raises(DataError, match=r"cannot read .*0\.tar!cat/004\.jpg: the file ends before the image does"):
        images.read(4)
    file.unlink()
    with pytest.raises(DataError, match=r"0\.tar!cat/000\.jpg: the file does not exist"):
        images.read(0)
