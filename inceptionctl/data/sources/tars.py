"""Where the members of a tar file lie, and what they are called. tarfile would do; it takes 46 us a member, this 2 us.

So also ImageNet as it is downloaded: ILSVRC2012_img_train.tar (a tar of 1,000 tars) and ILSVRC2012_img_val.tar. It is sorted by class and
then by name, as the same files unpacked into folders are.

Knows what tar programs write: ustar with its prefix, GNU's long names and large sizes, pax paths and sizes (POSIX.1-2008, pax).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Pieces, PlacedNames, Split, is_image_name, picture_suffix
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import LABEL_FILES, ClassList, find_label_file, read_labels
from inceptionctl.data.sources.folders import check_same_number, classes_of_labels, label_numbers
from inceptionctl.errors import DataError

_BLOCK = 512
_FILE_KINDS = b"0\0007"

TARS: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


class TarMember(NamedTuple):
    """A regular file in a tar: its name, and where its bytes lie in the outermost file."""

    name: bytes
    offset: int
    size: int


def members(descriptor: int, where: str, start: int = 0, end: int | None = None) -> Iterator[TarMember]:
    """The files of the tar that lies at [start, end) of an open file, in its order.

    Raises DataError, naming `where`, when that is no tar or it is cut short. A tar without its closing zero blocks is whole.
    """
    end = os.fstat(descriptor).st_size if end is None else end
    at, long_name, pax = start, b"", dict[bytes, bytes]()
    while at < end:
        header = os.pread(descriptor, _BLOCK, at)
        if header.count(0) == _BLOCK:
            return
        if at + _BLOCK > end or len(header) < _BLOCK:
            raise _cut_short(where, at)
        if not is_header(header):
            what = "no tar file" if at == start else f"damaged: no member begins at byte {at - start}, where one should"
            raise DataError(f"{where} is {what}", "make or fetch it again")
        kind, offset = header[156:157], at + _BLOCK
        size = int(pax.get(b"size", b"0")) or _number(header[124:136])
        at = offset + -(-size // _BLOCK) * _BLOCK
        if offset + size > end:
            raise _cut_short(where, offset)
        if kind == b"L":
            long_name = os.pread(descriptor, size, offset).rstrip(b"\0")
        elif kind == b"x":
            pax = _pax(os.pread(descriptor, size, offset), where)
        elif kind not in b"gK":
            name = pax.get(b"path") or long_name or _name(header)
            if kind in _FILE_KINDS and not name.endswith(b"/"):  # old programs end the name of a folder so
                yield TarMember(name, offset, size)
            long_name, pax = b"", {}


@contextmanager
def opened(file: Path) -> Iterator[int]:
    """A descriptor to read from. Raises DataError when the file cannot be opened or read."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as fault:
        raise DataError(f"cannot read {file}: {fault.strerror}") from fault


def is_header(header: bytes) -> bool:
    """Whether 512 bytes are the header of a member: its checksum tells."""
    try:
        told = _number(header[148:156])
    except ValueError:
        return False
    return told == sum(header) - sum(header[148:156]) + 8 * 32


def size_in(header: bytes) -> int:
    """The size that the header of a member tells."""
    return _number(header[124:136])


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0", 1)[0], header[345:500].split(b"\0", 1)[0]
    # GNU's own format keeps times where ustar keeps a prefix; its magic ends in two spaces.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: base 256 where octal digits do not suffice
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _pax(block: bytes, where: str) -> dict[bytes, bytes]:
    """Records `length key=value`, in which the length counts itself and the line's end."""
    found, at = dict[bytes, bytes](), 0
    try:
        while at < len(block):
            length = int(block[at : block.index(b" ", at)])
            key, _, value = block[at : at + length - 1].partition(b" ")[2].partition(b"=")
            found[key] = value
            at += max(length, 1)
        int(found.get(b"size", b"0"))
    except ValueError:
        raise DataError(f"{where} is damaged: an extended header of pax makes no sense", "make or fetch it again") from None
    return found


def _cut_short(where: str, at: int) -> DataError:
    return DataError(f"{where} is cut short: the member at byte {at} does not end in it", "copy or make it again")


def open_tar(root: Path, split: Split, class_list: ClassList, val_labels: Path | None) -> ImageSet:
    """Index one of the two files, or take the index that was kept. Raises DataError when it is damaged or has no labels."""
    labels = val_labels or find_label_file(root)
    if split == "val" and labels is None:
        raise DataError(
            f"{root / TARS['val']} holds no labels, and no file with them lies beside it",
            f"put one there ({', '.join(LABEL_FILES[:2])}, or the development kit {LABEL_FILES[-1]}), or set data.val_labels",
        )
    used = [
        root / TARS[split],
        *([labels] if split == "val" and labels else []),
        *([class_list.file] if class_list.file else []),
    ]
    made_of = index_cache.fingerprint("imagenet", class_list.order, index_cache.times_of(used))
    if split == "train":
        return index_cache.kept(root, split, made_of, lambda: _train(root, class_list))
    assert labels is not None
    return index_cache.kept(root, split, made_of, lambda: _val(root, labels, class_list))


def _train(root: Path, class_list: ClassList) -> ImageSet:
    file = root / TARS["train"]
    found: dict[str, list[TarMember]] = {}
    passed = Counter[str]()
    with opened(file) as descriptor:
        for inner in members(descriptor, str(file)):
            name = Path(os.fsdecode(inner.name))
            if name.suffix == ".tar" and not name.name.startswith("."):
                where = f"{file}!{name}"
                listed = list(members(descriptor, where, inner.offset, inner.offset + inner.size))
                found[name.stem] = sorted(filter(_is_image, listed))
                passed.update(_passed_over(listed))
    if not found:
        raise DataError(f"{file} holds no tars of classes", "it is the tar of the training images as it is downloaded")
    classes = class_list.settle(found, str(file), all_of_them=True)
    counts = [len(found[name]) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return _image_set(root, "train", classes, labels, [member for name in classes for member in found[name]], passed)


def _val(root: Path, label_file: Path, class_list: ClassList) -> ImageSet:
    file = root / TARS["val"]
    with opened(file) as descriptor:
        listed = list(members(descriptor, str(file)))
    found = sorted(filter(_is_image, listed))
    labels = read_labels(label_file)
    check_same_number(len(found), str(file), labels, label_file)
    classes = classes_of_labels(root, labels, label_file, class_list)
    return _image_set(root, "val", classes, label_numbers(labels, classes, str(label_file)), found, _passed_over(listed))


def _is_image(member: TarMember) -> bool:
    return is_image_name(member.name) and not member.name.rpartition(b"/")[2].startswith(b".")


def _passed_over(listed: list[TarMember]) -> Counter[str]:
    return Counter(filter(None, (picture_suffix(member.name) for member in listed)))


def _image_set(
    root: Path,
    split: Split,
    classes: tuple[str, ...],
    labels: NDArray[np.int32],
    found: list[TarMember],
    passed_over: Counter[str],
) -> ImageSet:
    file, listed = root / TARS[split], PlacedNames(found)
    pieces = Pieces.of(root, [file], [listed])
    return ImageSet(root, split, file, classes, labels, listed.names, False, pieces, passed_over=passed_over)
