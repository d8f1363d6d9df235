"""Which images a run is trained on: their names and labels, kept in the run directory, so that other ones are noticed at a resume.

data_list.gz is a line of JSON and then, of the training images in their order, labels, ends of names and names, as arrays. A start
compares digests, which takes a tenth of a second for a million images; the lists themselves are only read when those differ. Bytes of
up to a thousand images are compared too: folders that have changed places may hold files of the same names.

Where there is no list to compare with, classes and number must still be those that the checkpoint tells: the order of the samples follows
from them.

Images that have moved (another root, a list with other paths, folders that were packed into shards) are the same while class, name
and order are.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Names, is_image_name
from inceptionctl.errors import DataError
from inceptionctl.run import Run
from inceptionctl.storage import write_atomically
from inceptionctl.train import checkpoint_files as files

FORMAT = 1
MAX_SIZES = 1000  # asking a network file system takes up to a millisecond for each
MAX_SHOWN = 3
_ESCAPES = ((b"%2E", b"."), (b"%2F", b"/"), (b"%25", b"%"))  # what data/shard_writer.py writes into the keys of shards

Key = tuple[str, bytes]


class ValImages(TypedDict):
    """What is kept of the validation images."""

    subset: str
    num_images: int
    sha256: str


class Head(TypedDict):
    """The line of JSON."""

    format: int
    folder: str
    classes: list[str]
    num_images: int
    in_shards: bool
    train: str
    """Digest of names and labels."""
    sizes: list[int]
    val: ValImages


def check_same_images(run: Run, checkpoint: Path, train_set: ImageSet, val_set: ImageSet, subset: str) -> list[str]:
    """Compare the images of a start from `checkpoint` with those that it was trained on; remarks for people.

    Of a checkpoint of `run` by the list that the run keeps. Of another run's, or without a list of this form, by the classes and the
    number of images in progress.json. Raises DataError, naming what differs, when the training images are others or have other labels.
    """
    head = _head(run) if checkpoint.parent == run.checkpoints else None
    if head is None:
        told = files.read_progress(checkpoint)
        differences = _classes_and_number(told.get("classes", ()), told.get("num_train_images", 0), train_set)
        if differences:
            raise _refusal(run, checkpoint, None, train_set, differences)
        return []
    if head["train"] != _digest(train_set) or not _same_sizes(head, train_set):
        differences = _differences(run, head, train_set)
        if differences:
            raise _refusal(run, checkpoint, head, train_set, differences)
    then, now = head["val"], _about_val(val_set, subset)
    if then["subset"] == subset and then != now:
        counts = f"{then['num_images']:,} images then, {now['num_images']:,} now"
        return [f"validates on other images than at the last start ({counts}): errors before and after do not compare"]
    return []


def keep_list(run: Run, train_set: ImageSet, val_set: ImageSet, subset: str) -> None:
    """Write the list of a start, unless the run has the same one."""
    head: Head = {
        "format": FORMAT,
        "folder": str(train_set.folder.absolute()),
        "classes": list(train_set.classes),
        "num_images": len(train_set),
        "in_shards": train_set.pieces is not None,
        "train": _digest(train_set),
        "sizes": _sizes(train_set),
        "val": _about_val(val_set, subset),
    }
    if head == _head(run):
        return
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(json.dumps(head).encode() + b"\n")
        for array, kind in ((train_set.labels, np.int32), (train_set.names.ends, np.int64), (train_set.names.block, np.uint8)):
            file.write(np.ascontiguousarray(array, dtype=kind).data)
    write_atomically(run.data_list_file, content.getvalue())


def _about_val(images: ImageSet, subset: str) -> ValImages:
    found = hashlib.sha256()
    for name, stem in _keys_of(images):  # tens of thousands
        found.update(name.encode(errors="surrogateescape") + b"/" + stem + b"\0")
    return {"subset": subset, "num_images": len(images), "sha256": found.hexdigest()}


def _digest(images: ImageSet) -> str:
    found = hashlib.sha256(json.dumps([images.classes, images.class_folders, len(images)]).encode())
    for array in (images.labels, images.names.ends.astype(np.int64), images.names.block):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _sizes(images: ImageSet) -> list[int]:
    """Bytes of up to MAX_SIZES images, evenly spaced; -1 for one that is not there."""
    count = min(MAX_SIZES, len(images))
    places = [i * len(images) // count for i in range(count)]
    if images.pieces is not None:
        return [int(images.pieces.lengths[i]) for i in places]
    return [_size(images.path(i)) for i in places]


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (a name in bytes)
    except OSError:
        return -1


def _same_sizes(head: Head, images: ImageSet) -> bool:
    return all(then == now or -1 in (then, now) for then, now in zip(head["sizes"], _sizes(images), strict=False))


def _head(run: Run) -> Head | None:
    """What a list begins with; None where there is none, or it is of another version or damaged, and so will be written anew."""
    try:
        with gzip.open(run.data_list_file) as file:
            head = json.loads(file.readline())
    except (OSError, EOFError, ValueError):
        return None
    return cast(Head, head) if isinstance(head, dict) and head.get("format") == FORMAT else None


def _kept(run: Run, head: Head) -> tuple[NDArray[np.int32], Names]:
    """Labels and names of a list. Raises OSError, EOFError or ValueError when it is damaged."""
    with gzip.open(run.data_list_file) as file:
        file.readline()
        content = file.read()
    count = head["num_images"]
    labels = np.frombuffer(content, np.int32, count)
    ends = np.frombuffer(content, np.int64, count, offset=4 * count)
    return labels, Names(np.frombuffer(content, np.uint8, offset=12 * count), ends.astype(np.uint64))


def _keys_of(images: ImageSet) -> Iterator[Key]:
    return _keys(images.classes, images.labels, images.names, images.pieces is not None)


def _keys(classes: Sequence[str], labels: NDArray[np.int32], names: Names, in_shards: bool) -> Iterator[Key]:
    """Class and name of each image, the same in whatever form the data set lies: without folders, and without the suffix."""
    for label, name in zip(labels.tolist(), names.slice(0, len(names)), strict=True):
        last = name.rpartition(b"/")[2]
        stem = last.rpartition(b".")[0] if is_image_name(last) else last
        if in_shards:
            for escape, plain in _ESCAPES:
                stem = stem.replace(escape, plain)
        yield classes[label], stem


def _differences(run: Run, head: Head, images: ImageSet) -> list[str]:
    """What is not as it was, a line each; nothing where only places or forms are others."""
    try:
        labels, names = _kept(run, head)
    except (OSError, EOFError, ValueError):
        return []
    then = list(_keys(head["classes"], labels, names, head["in_shards"]))
    now = list(_keys_of(images))
    lines = _classes_and_number(head["classes"], len(then), images)
    before, after = set(then), set(now)
    lines += [
        f"{len(only):,} only {when}: {_some(only)}"
        for only, when in ((before - after, "then"), (after - before, "now"))
        if only
    ]
    if lines:
        return lines
    if then != now:
        place = next(i for i, (one, other) in enumerate(zip(then, now, strict=True)) if one != other)
        return [f"the order: image {place:,} was {_named(then[place])}, and is {_named(now[place])}"]
    if head["in_shards"] != (images.pieces is not None):
        return []  # packing may have made the files smaller
    sizes = _sizes(images)
    count = len(sizes)
    other = [i for i, (one, two) in enumerate(zip(head["sizes"], sizes, strict=True)) if one != two and -1 not in (one, two)]
    shown = [
        f"{_named(now[i * len(now) // count])} had {head['sizes'][i]:,} bytes, and has {sizes[i]:,}" for i in other[:MAX_SHOWN]
    ]
    return [f"the content: of {count:,} files that were looked at, {len(other):,} are of another size", *shown] if other else []


def _classes_and_number(classes: Sequence[str], number: int, images: ImageSet) -> list[str]:
    lines = [] if number == len(images) else [f"{number:,} images then, {len(images):,} now"]
    if tuple(classes) != images.classes:
        pairs = ((old, new) for old, new in zip(classes, images.classes, strict=False) if old != new)
        old, new = next(pairs, (f"{len(classes)} classes", str(len(images.classes))))
        lines.append(f"the classes: {old!r} then, {new!r} now")
    return lines


def _named(key: Key) -> str:
    return f"{key[0]}/{key[1].decode(errors='backslashreplace')}"


def _some(keys: set[Key]) -> str:
    names = [_named(key) for key in sorted(keys)[:MAX_SHOWN]]
    return ", ".join(names) + (", ..." if len(keys) > MAX_SHOWN else "")


def _refusal(run: Run, checkpoint: Path, head: Head | None, images: ImageSet, differences: Sequence[str]) -> DataError:
    where = here = str(images.folder.absolute())
    if head and here != head["folder"]:
        where = f"{here} (then {head['folder']})"
    if checkpoint.parent == run.checkpoints:
        trained = run.path
        hint = "give the run its own images again (data.root), or start a new run: another --output, and no --resume"
    else:
        trained = checkpoint
        hint = (
            "set data.root to the images that it was trained on, or start from its weights alone:"
            f" `--set model.init_from={checkpoint}` instead of --resume"
        )
    if head and not _classes_and_number(head["classes"], head["num_images"], images):
        # With another number the order of the samples would be another one, and the position mean nothing.
        hint += f"; if the change is meant, delete {run.data_list_file} and give the same command again"
    return DataError(f"{trained} was trained on other images than there are in {where}:\n  " + "\n  ".join(differences), hint)
