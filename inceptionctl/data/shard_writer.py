"""`inceptionctl data pack`: any data set as WebDataset shards. Samples keep their order, so training sees the very same stream.

    DEST/train/train-000000.tar ...  members <class>/<name>.jpg and .cls (the label from 0), as libraries of WebDataset read them
    DEST/train/train-000000.idx      where they lie, in the form of DALI's wds2idx
    DEST/classes.txt                 a class a line, in the order of the labels
    DEST/manifest.json               bytes, images and sha256 of each shard

Sorted by class, not shuffled: training draws its order itself and reads at random, and so the same source gives the same bytes.
Until the last shard is whole the manifest is called manifest.partial.json, and nothing opens DEST as a data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

from inceptionctl.data.dataset import UNFINISHED, open_split
from inceptionctl.data.imageset import ImageSet, is_image_name
from inceptionctl.data.reasons import kind_of
from inceptionctl.data.sources.shards import CLASSES_FILE
from inceptionctl.errors import DataError
from inceptionctl.storage import disk_errors, sha256_of, sync, temporary_file

MANIFEST = "manifest.json"
_FORM = 1
_BLOCK = 512


class PackedShard(TypedDict):
    """What the manifest says of a shard."""

    name: str
    images: int
    bytes: int
    sha256: str


class Manifest(TypedDict):
    """The file of that name. Two packings are the same where all but `splits` is."""

    form: int
    shard_bytes: int
    source: str
    splits: dict[str, list[PackedShard]]


Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Packed:
    """What a packing made."""

    images: int
    shards: int
    kept: int
    """Shards of an earlier attempt that were whole."""
    bytes: int


def pack(train: ImageSet, val: ImageSet, dest: Path, shard_bytes: int, on_progress: Progress | None = None) -> Packed:
    """Write both splits to `dest`, in shards of up to `shard_bytes` (a larger image has one of its own).

    Goes on where an earlier call with the same arguments was stopped: shards that still have their checksum are kept.
    `on_progress` is called with (what is done, images done, images in all). Raises DataError when an image cannot be read or
    something else is at `dest`, and EnvironmentFault when it cannot be written.
    """
    tell = on_progress or (lambda what, done, total: None)
    new: Manifest = {"form": _FORM, "shard_bytes": shard_bytes, "source": _digest(train, val), "splits": {}}
    total, before, kept = len(train) + len(val), 0, 0
    spaced = next((name for name in train.classes if name != name.strip()), None)
    if spaced is not None:
        raise DataError(
            f"the class '{spaced}' begins or ends with a space, which {CLASSES_FILE} cannot hold", "rename its folders"
        )
    with disk_errors(dest, "choose another folder"):
        manifest = _begun(dest, new)
        _write(dest / CLASSES_FILE, "".join(f"{name}\n" for name in train.classes))
        for images in (train, val):
            shards = manifest["splits"][images.split] = _whole(dest, manifest["splits"].get(images.split, []))
            kept += len(shards)
            done = sum(shard["images"] for shard in shards)
            while done < len(images):
                tell(f"packing {images.split}", before + done, total)
                shards.append(_write_shard(dest, images, done, len(shards), shard_bytes))
                done += shards[-1]["images"]
                _write(dest / UNFINISHED, json.dumps(manifest, indent=1) + "\n")
            before += done
            tell(f"packing {images.split}", before, total)
        _write(dest / UNFINISHED, json.dumps(manifest, indent=1) + "\n")
        (dest / UNFINISHED).replace(dest / MANIFEST)
        sync(dest)
    for images in (train, val):
        open_split(dest, images.split)  # makes the index, and shows that the shards open
    written = [shard for split in manifest["splits"].values() for shard in split]
    return Packed(total, len(written), kept, sum(shard["bytes"] for shard in written))


def _digest(*splits: ImageSet) -> str:
    """sha256 of what there is to pack: names, labels and classes."""
    found = hashlib.sha256()
    for images in splits:
        found.update(json.dumps([images.split, len(images), images.classes]).encode())
        for array in (images.labels, images.names.ends, images.names.block):
            found.update(array.tobytes())
    return found.hexdigest()


def _begun(dest: Path, new: Manifest) -> Manifest:
    """The manifest of an earlier call, or a new one. Raises DataError when something else lies at `dest`."""
    dest.mkdir(parents=True, exist_ok=True)
    file = next((dest / name for name in (UNFINISHED, MANIFEST) if (dest / name).exists()), None)
    if file is None and any(not path.name.startswith(".") for path in dest.iterdir()):
        raise DataError(f"{dest} is occupied by something else", "choose another folder, or empty this one")
    manifest = new
    if file is not None:
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise DataError(f"{file} is damaged", f"remove {dest} and pack again") from None
        if {**manifest, "splits": {}} != new:
            raise DataError(
                f"{dest} holds shards of other images or of another size",
                "choose another folder, or the same source and --shard-size",
            )
    _write(dest / UNFINISHED, json.dumps(manifest, indent=1) + "\n")
    (dest / MANIFEST).unlink(missing_ok=True)
    return manifest


def _whole(dest: Path, shards: list[PackedShard]) -> list[PackedShard]:
    """The shards up to the first that is missing or has another checksum than when it was written."""
    for place, shard in enumerate(shards):
        file = dest / shard["name"]
        if not file.is_file() or file.stat().st_size != shard["bytes"] or sha256_of(file) != shard["sha256"]:
            return shards[:place]
    return shards


def _write_shard(dest: Path, images: ImageSet, first: int, number: int, shard_bytes: int) -> PackedShard:
    """Write one shard whole or not at all; tells what the manifest says of it."""
    file = dest / images.split / f"{images.split}-{number:06d}.tar"
    file.parent.mkdir(exist_ok=True)
    with temporary_file(file) as temporary, temporary.open("wb") as opened:
        shard = ShardWriter(opened)
        for i in range(first, len(images)):
            if not shard.add(images, i, shard_bytes):
                break
        shard.end()
    index = file.with_suffix(".idx")
    index.unlink(missing_ok=True)
    if not any(b" " in name for sample in shard.samples for name in sample[3::4]):  # DALI takes a space for the next word
        lines = [b" ".join(sample) + b"\n" for sample in shard.samples]
        index.write_bytes(b"v1.2 %d\n" % len(lines) + b"".join(lines))
    return {
        "name": str(file.relative_to(dest)),
        "images": len(shard.samples),
        "bytes": shard.size,
        "sha256": shard.sha256.hexdigest(),
    }


class ShardWriter:
    """A tar file in the making, with its checksum and the places of its members."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.samples: list[list[bytes]] = []
        self._keys: set[bytes] = set()

    def add(self, images: ImageSet, i: int, most_bytes: int) -> bool:
        """Add a sample unless it does not fit any more; one always does. Raises DataError when the image cannot be read."""
        image, label = images.read(i), b"%d" % images.labels[i]
        if self.samples and self.size + len(image) + 5 * _BLOCK > most_bytes:
            return False
        key = _key(images, i)
        key = key if key not in self._keys else key + b"~%d" % i
        self._keys.add(key)
        self.samples.append([*self._member(key, _extension(images.names[i], image), image), *self._member(key, b"cls", label)])
        return True

    def end(self) -> None:
        """Two empty blocks end a tar."""
        self._write(bytes(2 * _BLOCK))

    def _member(self, key: bytes, extension: bytes, content: bytes) -> tuple[bytes, ...]:
        """Write a member; its words in an index. Time, owner and mode are the same for all: nothing tells when or who packed."""
        name = key + b"." + extension
        header = tarfile.TarInfo(os.fsdecode(name))
        header.size, header.mode, header.mtime = len(content), 0o644, 0
        self._write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        offset = self.size
        self._write(content + bytes(-len(content) % _BLOCK))
        return extension, b"%d" % offset, b"%d" % len(content), name

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self.sha256.update(content)
        self.size += len(content)


def _key(images: ImageSet, i: int) -> bytes:
    """class/name, without the suffix and with the dots escaped: a key ends at its first dot."""
    folder = os.fsencode(images.classes[images.labels[i]]).replace(b"%", b"%25").replace(b"/", b"%2F")
    name = images.names[i].rpartition(b"/")[2]
    stem = name.rpartition(b".")[0] if is_image_name(name) else name
    return folder + b"/" + stem.replace(b"%", b"%25").replace(b".", b"%2E")


def _extension(name: bytes, image: bytes) -> bytes:
    """As the file is called, jpg for every spelling of JPEG; of an image without a suffix, what its content says."""
    if is_image_name(name):
        suffix = name.rpartition(b".")[2].lower()
        return b"jpg" if suffix == b"jpeg" else suffix
    kind = kind_of(image[:16])
    return {"png": b"png", "bmp": b"bmp", "webp": b"webp", "tiff": b"tif"}.get(kind, b"jpg")


def _write(file: Path, text: str) -> None:
    with temporary_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
