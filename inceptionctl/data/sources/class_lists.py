"""Which name stands for which label: lists of class names, and label files of validation images that lie in no class folders."""

from __future__ import annotations

import io
import itertools
import re
import sys
import tarfile
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from inceptionctl.data.sources import ClassOrder
from inceptionctl.errors import DataError, EnvironmentFault
from inceptionctl.nearby import did_you_mean

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LABEL_FILES = (
    "imagenet_2012_validation_synset_labels.txt",  # tf-slim
    "validation_labels.txt",  # TensorFlow Datasets
    _GROUND_TRUTH,  # the development kit
    f"ILSVRC2012_devkit_t12/data/{_GROUND_TRUTH}",
    "ILSVRC2012_devkit_t12.tar.gz",
)
_META_FILES = ("meta.mat", "meta_clsloc.mat")
_KITS = (".tar.gz", ".tgz", ".tar")
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassList:
    """The class names that a user gives, or none."""

    names: tuple[str, ...] | None = None
    file: Path | None = None
    order: ClassOrder = "sorted"

    @classmethod
    def read(cls, file: Path | None, order: ClassOrder) -> ClassList:
        """Raises DataError when the file is no list of names."""
        return cls(read_class_names(file) if file else None, file, order)

    def settle(self, found: Collection[str], where: str, *, all_of_them: bool) -> tuple[str, ...]:
        """The names in the order of the labels: those listed, or else those found, sorted.

        `all_of_them` demands that every listed class be found. Raises DataError when list and data contradict each other, or
        when the list is not sorted and `order` does not say that this is meant.
        """
        if self.names is None:
            return tuple(sorted(found))
        pairs = ((f"only in {where}", found, self.names), (f"only in {self.file}", self.names if all_of_them else (), found))
        only = [(place, sorted(set(one) - set(other))) for place, one, other in pairs]
        parts = [f"{place}: {some(names)}" for place, names in only if names]
        if parts:
            raise DataError(
                f"the classes of {where} are not those of {self.file}; {'; '.join(parts)}",
                "data.class_names names every class of the data set once; leave it out to take the names from the data",
            )
        check_order(self.names, str(self.file), self.order)
        return self.names


def read_class_names(file: Path) -> tuple[str, ...]:
    """One name a line; of lines such as `n01440764 tench, Tinca tinca` the first word. Raises DataError if it is no such list."""
    lines = [line.strip() for line in text_of(file, "data.class_names").splitlines() if line.strip()]
    first_words = [line.split()[0] for line in lines]
    names = first_words if all(map(_WNID.fullmatch, first_words)) else lines
    if not names:
        raise DataError(f"{file} names no classes", "write one class name a line, in the order of the labels")
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if first.setdefault(name, number) != number:
            raise DataError(
                f"{file} names the class '{name}' twice, in lines {first[name]} and {number}", "name each class once"
            )
    return tuple(names)


def check_order(names: Sequence[str], where: str, order: ClassOrder) -> None:
    """Raise DataError when names are not sorted, unless that is meant: a label is a place in the sorted names everywhere else."""
    if order == "listed":
        return
    for number, (one, other) in enumerate(itertools.pairwise(names), 2):
        if one > other:
            raise DataError(
                f"the classes of {where} are not in sorted order: '{other}', number {number}, comes after '{one}'",
                "labels of ImageNet and of class folders count sorted names, so another order mixes up classes;"
                " sort the list, or if it is meant, `--set data.class_order=listed`",
            )


def check_names(names: Sequence[str], folder: Path, *, class_folders: bool) -> None:
    """Raise DataError on a class name that is no line of UTF-8 text: it goes into checkpoints, predictions, exports and model cards."""
    for name in names:
        if not name.isascii() and sys.getfilesystemencoding() != "utf-8":
            raise EnvironmentFault(
                f"a class of {folder} is called '{escaped_name(name)}', but file names are {sys.getfilesystemencoding()} in this locale",
                "`export PYTHONUTF8=1`, or set a locale of UTF-8 such as LC_ALL=C.UTF-8",
            )
        wrong = _wrong_with(name)
        if wrong:
            hint = (
                f"rename the folder in train/ and val/ alike, in bash: `mv {folder}/$'{escaped_name(name)}' {folder}/NAME`"
                if class_folders
                else "write the name in UTF-8, on one line, wherever the data set tells it"
            )
            raise DataError(f"a class of {folder} is called '{escaped_name(name)}', {wrong}", hint)


def _wrong_with(name: str) -> str | None:
    kinds = {unicodedata.category(char) for char in name}
    if "Cs" in kinds:  # bytes that could not be decoded come as lone surrogates
        return "which is not UTF-8"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "with characters that end a line or control a terminal"
    return None if name.strip() else "which nobody can see"


def escaped_name(name: str) -> str:
    """A name with what cannot be seen escaped as in Python and bash, bytes that are no UTF-8 as \\xNN."""
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else repr(f'"{char}')[2:-1] for char in name)


def find_label_file(root: Path) -> Path | None:
    """A label file under one of its usual names in the data set."""
    return next((root / name for name in LABEL_FILES if (root / name).is_file()), None)


def read_labels(file: Path) -> list[str]:
    """The class name of each validation image, in the order of their file names.

    A name a line (tf-slim, TensorFlow Datasets), or the development kit's own numbers, which `meta.mat` beside them explains;
    the kit may be the .tar.gz as it comes. Raises DataError when it is none of these.
    """
    if file.name.endswith(_KITS):
        text, meta, where = _from_kit(file)
    else:
        text, meta, where = text_of(file, "data.val_labels"), None, str(file)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{where} is empty", "it holds one label a line, in the order of the validation images' names")
    if not all(line.isdecimal() for line in lines):
        return lines
    synset_list = "set data.val_labels to tf-slim's imagenet_2012_validation_synset_labels.txt"
    meaning = _meaning(_meta_beside(file) if meta is None else meta, where, synset_list)
    unknown = next(((number, line) for number, line in enumerate(lines, 1) if int(line) not in meaning), None)
    if unknown:
        raise DataError(
            f"{where}, line {unknown[0]}: {unknown[1]} is no number of the development kit's meta file (1 to {max(meaning)})",
            "use the ground truth and the meta file of one development kit",
        )
    return [meaning[int(line)] for line in lines]


def imagenet_ids() -> dict[str, int]:
    """Synset -> ILSVRC2012_ID, 1 to 1000, of ImageNet's 1,000 classes. The numbers of the challenge do not count sorted names."""
    folder = files("inceptionctl.data.sources")
    synsets, numbers = (folder.joinpath(f"imagenet_{kind}.txt").read_text(encoding="ascii") for kind in ("wnids", "ids"))
    return dict(zip(synsets.split(), map(int, numbers.split()), strict=True))


def imagenet_words(classes: Sequence[str]) -> dict[str, str]:
    """Synset -> its English words in WordNet (Princeton University; imagenet_words.LICENSE.txt), for ImageNet's 1,000 classes.

    Empty unless all `classes` are among them.
    """
    folder = files("inceptionctl.data.sources")
    synsets, words = (folder.joinpath(f"imagenet_{kind}.txt").read_text(encoding="ascii") for kind in ("wnids", "words"))
    known = dict(zip(synsets.split(), words.splitlines(), strict=True))
    return {name: known[name] for name in classes} if known.keys() >= set(classes) else {}


def read_class_ids(file: Path) -> dict[str, int]:
    """Class name -> number: from the development kit (its meta file, or the .tar.gz as it comes), or from a text.

    A line of the text is a name and its number, or, as in map_clsloc.txt, a synset, its number, and words. Raises DataError when it is
    none of these, or names a class or a number twice.
    """
    if file.name.endswith((*_KITS, ".mat")):
        meta = _bytes(file) if file.suffix == ".mat" else _from_kit(file)[1]
        return {
            name: number for number, name in _meaning(meta, str(file), "give a text with a name and its number a line").items()
        }
    numbers: dict[str, int] = {}
    for line, text in enumerate(text_of(file, "--class-ids").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        described = len(words) > 2 and words[1].isdecimal()
        name, number = (words[0], words[1]) if described else (" ".join(words[:-1]), words[-1])
        if not name or not number.isdecimal():
            raise DataError(f"{file}:{line}: {text.strip()[:60]!r} is no class name and its number", "for example: n02119789 1")
        if name in numbers or int(number) in numbers.values():
            raise DataError(
                f"{file}:{line}: the {'class' if name in numbers else 'number'} is there twice: {text.strip()[:60]}"
            )
        numbers[name] = int(number)
    return numbers


def _meta_beside(file: Path) -> bytes:
    for name in _META_FILES:
        if (file.parent / name).is_file():
            return (file.parent / name).read_bytes()
    raise DataError(
        f"{file} holds numbers of the development kit, and neither {' nor '.join(_META_FILES)} lies beside it",
        "put the kit's meta file there; the kit's numbers are not places in the sorted class names",
    )


def _from_kit(file: Path) -> tuple[str, bytes, str]:
    try:
        with tarfile.open(file) as kit:
            found = {Path(member.name).name: member for member in kit if member.isfile()}
            meta = next((found[name] for name in _META_FILES if name in found), None)
            if _GROUND_TRUTH not in found or meta is None:
                raise DataError(f"{file} is no development kit: no {_GROUND_TRUTH} and {_META_FILES[0]} in it")
            texts = [opened.read() for opened in map(kit.extractfile, (found[_GROUND_TRUTH], meta)) if opened]
    except (OSError, EOFError, tarfile.TarError) as fault:
        raise DataError(f"cannot read {file}: {fault}", "fetch the development kit again") from fault
    return texts[0].decode("ascii", errors="replace"), texts[1], f"{file}!{_GROUND_TRUTH}"


def _meaning(meta: bytes, where: str, instead: str) -> dict[int, str]:
    """Number of the development kit -> synset; `instead` is what does without scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise EnvironmentFault(
            f"{where} needs the development kit's MATLAB file, and scipy, which reads it, is not installed",
            f"`pip install scipy`, or {instead}",
        ) from None
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        number = next(name for name in synsets.dtype.names if name.endswith("_ID"))
        return {int(row[number]): str(row["WNID"]) for row in synsets}
    except Exception as fault:  # whatever scipy makes of a file that is not MATLAB's
        raise DataError(f"the meta file of {where} is not the development kit's: {fault}", "fetch the kit again") from fault


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise DataError(
            f"cannot read {file}: {fault.strerror}", f"{did_you_mean(file)}name the development kit's meta file"
        ) from None


def text_of(file: Path, key: str) -> str:
    """Of a list that `key` of the recipe, or an option, names. Raises DataError when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        line = fault.object.count(b"\n", 0, fault.start) + 1
        text = (
            fault.object[fault.object.rfind(b"\n", 0, fault.start) + 1 :][:60]
            .partition(b"\n")[0]
            .decode(errors="backslashreplace")
        )
        raise DataError(
            f"{file} is no text file in UTF-8: line {line} is '{text.strip()}'",
            f"{key} names a text file with a line for each; `iconv -f latin1 -t utf-8 FILE` converts one from Latin-1",
        ) from None
    except OSError as fault:
        raise DataError(
            f"cannot read {file}: {fault.strerror}", f"{did_you_mean(file)}{key} names it, relative to the working directory"
        ) from fault


def some(names: Iterable[str], most: int = 10) -> str:
    """The first few names, and how many more."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return f"{shown} and {len(listed) - most} more" if len(listed) > most else shown
