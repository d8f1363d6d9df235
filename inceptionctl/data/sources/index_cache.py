"""Lists of large data sets, kept on disk: listing a million files takes minutes on a network file system, opening its list none.

A list is one safetensors file: arrays that all ranks of a machine map into memory together, and the rest of it as JSON in the
header. It lies in `.inceptionctl/` of the data set, or under ~/.cache/inceptionctl where the data set cannot be written to.
It carries a fingerprint of whatever it was made of: names, sizes and times of shards, or times of folders, which change with
every file that comes or goes. Another fingerprint, or a damaged file, and the list is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Names, Pieces, Split
from inceptionctl.storage import temporary_file

WORTH_KEEPING = 10_000  # images; fewer are listed in no time, and their folder stays as it is
SECONDS_TO_SETTLE = 2.0  # a folder that changes again within the tick of a file system's clock looks as it did before
_VERSION = 2
_FOLDER = ".inceptionctl"

Arrays = dict[str, NDArray[Any]]


class _About(TypedDict):
    """What a list holds besides arrays."""

    made_of: str
    folder: str
    classes: Sequence[str]
    class_folders: bool
    left_out: Sequence[str]
    passed_over: dict[str, int]
    files: NotRequired[Sequence[str]]
    """Of images in pieces of files alone."""


def fingerprint(*parts: Any) -> str:
    """sha256 of JSON values."""
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()


def times_of(paths: list[Path]) -> list[tuple[str, int, int]]:
    """(name, bytes, time of the last change) of each file or folder, for a fingerprint."""
    found = ((path, path.stat()) for path in paths)
    return [(str(path.name), 0 if path.is_dir() else stat.st_size, stat.st_mtime_ns) for path, stat in found]


def kept(
    root: Path, split: Split, made_of: str, make: Callable[[], ImageSet], *, newest: float = 0.0, name: str | None = None
) -> ImageSet:
    """The list with the fingerprint `made_of`, from the disk if it is there, else made now and kept if that is worth it.

    `newest` is the time of the last change of what it is made of, in seconds since 1970, where sizes do not tell. The file is called after
    the split, or `name`.
    """
    name = name or split
    for file in _places(root, name):
        images = _load(file, root, split, made_of)
        if images is not None:
            return images
    images = make()
    if len(images) >= WORTH_KEEPING and newest < time.time() - SECONDS_TO_SETTLE:
        for file in _places(root, name):
            # A list that cannot be kept is made again the next time.
            with suppress(OSError):
                _save(file, images, made_of)
                return _load(file, root, split, made_of) or images
    return images


def _places(root: Path, name: str) -> Iterator[Path]:
    yield root / _FOLDER / f"{name}.index"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111  (Path.expanduser raises)
    if cache.is_absolute():  # else there is neither a HOME nor an entry of the user
        yield cache / "inceptionctl" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16] / f"{name}.index"


def _save(file: Path, images: ImageSet, made_of: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays: Arrays = {"labels": images.labels, "name_block": images.names.block, "name_ends": images.names.ends}
    about: _About = {
        "made_of": made_of,
        "folder": os.path.relpath(images.folder, images.root),
        "classes": images.classes,
        "class_folders": images.class_folders,
        "left_out": images.left_out,
        "passed_over": dict(images.passed_over),
    }
    if images.pieces is not None:
        about["files"] = images.pieces.files
        arrays |= {name: getattr(images.pieces, name) for name in ("firsts", "offsets", "lengths")}
    file.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(file) as temporary:  # whoever has the old one mapped keeps it
        try:
            save_file(arrays, temporary, metadata={"index": json.dumps(about)})
        except SafetensorError as error:  # a full disk, for one: the writer in Rust wraps whatever the system said
            raise OSError(str(error)) from error


def _load(file: Path, root: Path, split: Split, made_of: str) -> ImageSet | None:
    """None when there is no such list, it is of something else, or it is damaged."""
    try:
        arrays, about = _mapped(file)
        if about["made_of"] != made_of:
            return None
        pieces = None
        if "files" in about:
            pieces = Pieces(tuple(about["files"]), arrays["firsts"], arrays["offsets"], arrays["lengths"])
        names = Names(arrays["name_block"], arrays["name_ends"])
        folder, classes = root / about["folder"], tuple(about["classes"])
        labels, in_folders, left_out = arrays["labels"], about["class_folders"], tuple(about["left_out"])
        passed_over = about["passed_over"]
        return ImageSet(root, split, folder, classes, labels, names, in_folders, pieces, left_out, made_of, passed_over)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(file: Path) -> tuple[Arrays, _About]:
    """The arrays of a safetensors file, mapped, and its JSON. The package's own reader copies them into every process."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError("not a safetensors file")
        header = json.loads(opened.read(size))
    about: _About = json.loads(header.pop("__metadata__")["index"])
    block = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", offset=8 + size))
    kinds = {"I32": np.int32, "I64": np.int64, "U8": np.uint8, "U32": np.uint32, "U64": np.uint64}
    arrays: Arrays = {}
    for name, told in header.items():
        start, end = told["data_offsets"]
        if end > len(block):
            raise ValueError("the file has lost its end")
        arrays[name] = block[start:end].view(kinds[told["dtype"]])
    return arrays, about
