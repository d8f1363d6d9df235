"""Packing a data set into shards: the same samples, the same bytes on every run, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from inceptionctl.data import shard_writer
from inceptionctl.data.dataset import ImageSet, open_data, open_split
from inceptionctl.data.shard_writer import pack
from inceptionctl.data.sources import index_cache
from inceptionctl.errors import DataError, EnvironmentFault
from tests.commands import inceptionctl, refused
from tests.data.sources.test_class_lists import meta

SHARD_BYTES = 60_000


def splits(root: Path) -> tuple[ImageSet, ImageSet]:
    return open_split(root, "train"), open_split(root, "val")


def files(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def same_samples(one: ImageSet, other: ImageSet) -> None:
    assert one.classes == other.classes and one.labels.tolist() == other.labels.tolist()
    assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]


@pytest.fixture
def packed(root: Path, tmp_path: Path) -> Path:
    pack(*splits(root), tmp_path / "packed", SHARD_BYTES)
    return tmp_path / "packed"


def test_samples_and_their_order_are_those_of_the_folder(root: Path, packed: Path) -> None:
    for one, other in zip(splits(root), splits(packed), strict=True):
        same_samples(one, other)
    assert (packed / "classes.txt").read_text() == "class_0\nclass_1\nclass_2\n"
    manifest = json.loads((packed / "manifest.json").read_text())
    shards = [shard for split in manifest["splits"].values() for shard in split]
    assert len(manifest["splits"]["train"]) > 2 and sum(shard["images"] for shard in shards) == 20
    for shard in shards:
        content = (packed / shard["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"] and len(content) == shard["bytes"]
        assert len(content) <= SHARD_BYTES or shard["images"] == 1


def test_the_same_bytes_on_every_run(root: Path, packed: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(root, tmp_path / "copy")
    for path in copied.rglob("*.jpg"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    pack(*splits(copied), tmp_path / "again", SHARD_BYTES)
    assert files(tmp_path / "again") == files(packed)


def test_shards_are_ordinary_tars(root: Path, packed: Path) -> None:
    with tarfile.open(packed / "train/train-000000.tar") as tar:
        members = tar.getmembers()
        first = tar.extractfile(members[0])
        assert first is not None and first.read() == (root / "train/class_0/000.jpg").read_bytes()
    assert [member.name for member in members[:4]] == [f"class_0/00{i}.{kind}" for i in (0, 1) for kind in ("jpg", "cls")]
    assert {(member.mtime, member.uid, member.mode, member.uname) for member in members} == {(0, 0, 0o644, "")}


def test_sign_digits_survive_packing(photographs: Path, tmp_path: Path) -> None:
    done = inceptionctl("data", "pack", photographs, tmp_path / "packed", "--shard-size", "100KB")
    assert done.returncode == 0, done.stderr
    assert "60 images" in done.stderr and "model.num_classes=10" in done.stderr
    for one, other in zip(splits(photographs), splits(tmp_path / "packed"), strict=True):
        same_samples(one, other)
    checked = inceptionctl("data", "check", tmp_path / "packed", "--json")
    assert checked.returncode == 0, checked.stderr
    assert [split["num_images"] for split in json.loads(checked.stdout)["splits"]] == [len(one) for one in splits(photographs)]


def test_names_that_a_tar_would_confuse_stay_apart(tmp_path: Path) -> None:
    contents = {"a.b.jpg": b"1", "a.c.jpg": b"2", "a.png": b"3", "a.jpg": b"4", "ü \udcff.JPEG": b"5", "a%2Eb.jpg": b"6"}
    for name, content in contents.items():
        for folder in ("train/x.y", "val/x.y"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
    pack(*splits(tmp_path), tmp_path / "packed", 1_000_000)
    for one, other in zip(splits(tmp_path), splits(tmp_path / "packed"), strict=True):
        same_samples(one, other)
    names = open_split(tmp_path / "packed", "train").names
    assert len({names[i] for i in range(6)}) == 6


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stopped_run_goes_on_and_leaves_nothing_half_valid(
    root: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    dest = tmp_path / "stopped"
    add = shard_writer.ShardWriter.add

    def stopping(shard: shard_writer.ShardWriter, images: ImageSet, i: int, most: int) -> bool:
        if images.split == "train" and i == 8:
            raise fault
        return add(shard, images, i, most)

    with monkeypatch.context() as stopped:
        stopped.setattr(shard_writer.ShardWriter, "add", stopping)
        with pytest.raises(KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else EnvironmentFault) as raised:
            pack(*splits(root), dest, SHARD_BYTES)
    if isinstance(raised.value, EnvironmentFault):
        assert "no space left" in raised.value.message and "run the same command again" in (raised.value.hint or "")
    assert not list(dest.rglob(".*.tmp")) and (dest / "train/train-000000.tar").is_file()
    with pytest.raises(DataError, match="is not packed to its end"):
        open_split(dest, "train")
    first = (dest / "train/train-000000.tar").stat().st_mtime_ns
    assert pack(*splits(root), dest, SHARD_BYTES).kept >= 1
    assert files(dest) == files(packed)
    assert (dest / "train/train-000000.tar").stat().st_mtime_ns == first


@pytest.mark.parametrize("harm", ["byte", "short", "gone"])
def test_a_harmed_shard_is_made_again(root: Path, packed: Path, harm: str) -> None:
    before = files(packed)
    shard = packed / "train/train-000001.tar"
    if harm == "gone":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[700] ^= 1
        shard.write_bytes(content if harm == "byte" else content[:-512])
    done = pack(*splits(root), packed, SHARD_BYTES)
    assert 0 < done.kept < done.shards and files(packed) == before
    assert pack(*splits(root), packed, SHARD_BYTES).kept == done.shards


def test_what_lies_there_already_is_left_alone(root: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    refused(inceptionctl("data", "pack", root, tmp_path / "full"), 3, "is occupied by something else")
    refused(
        inceptionctl("data", "pack", root, packed, "--shard-size", "1MB"), 3, "holds shards of other images or of another size"
    )
    refused(inceptionctl("data", "pack", tmp_path / "nothing", tmp_path / "x"), 3, "does not exist")
    refused(inceptionctl("data", "pack", root, tmp_path / "x", "--shard-size", "big"), 2, "is not a size")
    refused(inceptionctl("data", "pack", root, tmp_path / "full/thesis.txt"), 4, "cannot write")
    assert not (tmp_path / "x").exists() and files(tmp_path / "full").keys() == {"thesis.txt"}


def test_an_image_that_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(root, tmp_path / "copy")
    (copied / "train/class_1/000.jpg").unlink()
    (copied / "train/class_1/000.jpg").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"class_1/000\.jpg: the link leads nowhere"):
        pack(*splits(copied), tmp_path / "packed", SHARD_BYTES)


def tar_of(members: Iterator[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def downloaded(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(ImageNet as downloaded: a tar of tars, a tar without classes, the kit; the same as folders)."""
    wnids = ("n01440764", "n01443537", "n01484850")
    folder, source = tmp_path / "unpacked", tmp_path / "source"
    source.mkdir()
    inner = {}
    for label, wnid in enumerate(wnids):
        images = sorted((root / f"train/class_{label}").iterdir(), reverse=True)  # in no order of names
        named = [(f"{wnid}_{path.stem}.JPEG", path.read_bytes()) for path in images]
        inner[f"{wnid}.tar"] = tar_of(iter(named))
        (folder / "train" / wnid).mkdir(parents=True)
        for name, content in named:
            (folder / "train" / wnid / name).write_bytes(content)
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar_of(iter(inner.items())))
    val = [(label, path) for label in range(3) for path in sorted((root / f"val/class_{label}").iterdir())]
    mixed = [val[i] for i in (3, 0, 6, 2, 5, 1, 4)]
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 8)]
    for name, (label, path) in zip(names, mixed, strict=True):
        (folder / "val" / wnids[label]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "val" / wnids[label] / name)
    contents = [path.read_bytes() for _, path in mixed]
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar_of(zip(reversed(names), reversed(contents), strict=True)))
    numbers = "".join(f"{(3, 1, 2)[label]}\n" for label, _ in mixed)
    kit = {"data/ILSVRC2012_validation_ground_truth.txt": numbers.encode(), "data/meta.mat": meta()}
    (source / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_of(iter(kit.items())))
    return source, folder


def test_imagenet_is_packed_from_its_tars(downloaded: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = downloaded
    train, val = splits(folder)
    done = inceptionctl("data", "pack", source, tmp_path / "packed")
    assert done.returncode == 0, done.stderr
    packed_train, packed_val = open_data(tmp_path / "packed", 3)
    same_samples(train, packed_train)
    assert packed_train.name(0).endswith("train-000000.tar!n01440764/n01440764_000.jpg")
    # The validation images keep the order of their names, as in a folder without classes.
    by_name = {os.fsdecode(val.path(i)).rpartition("/")[2]: (int(val.labels[i]), val.read(i)) for i in range(len(val))}
    assert [(int(packed_val.labels[i]), packed_val.read(i)) for i in range(len(val))] == [
        by_name[name] for name in sorted(by_name)
    ]
    pack(*splits(folder), tmp_path / "from folder", 256_000_000)
    assert files(tmp_path / "packed/train") == files(tmp_path / "from folder/train")
    (source / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused(inceptionctl("data", "pack", source, tmp_path / "other"), 3, "ILSVRC2012_img_val.tar holds no labels")


def test_an_index_is_kept_with_the_shards(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    pack(*splits(root), tmp_path / "packed", SHARD_BYTES)
    assert {file.name for file in (tmp_path / "packed/.inceptionctl").iterdir()} == {"train.index", "val.index"}
