"""Images named in CSV files with the columns `path` and `label`, for data that lies elsewhere or belongs to several data sets."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from inceptionctl.data.imageset import ImageSet, Names, Split
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import ClassList
from inceptionctl.data.sources.folders import label_numbers
from inceptionctl.errors import DataError
from inceptionctl.nearby import did_you_mean

MAX_LOOKED_FOR = 20_000  # asking a network file system for each of a million files takes longer than an epoch's start may
_MAX_SHOWN = 10


def open_csv(root: Path, split: Split, file: Path, train_file: Path | None, class_list: ClassList) -> ImageSet:
    """The images of one list, in its order. A label is the name of a class; a path is absolute, or below the list's folder or `root`.

    Classes are those of `class_list`, or else those of the training list. Of long lists 20,000 evenly spaced files are looked
    for. Raises DataError that names every problem with its line.
    """
    files = [file, *([train_file] if train_file else []), *([class_list.file] if class_list.file else [])]
    for one in files:
        if not one.is_file():
            raise DataError(
                f"there is no list {one}",
                f"{did_you_mean(one)}data.train_csv and data.val_csv are relative to the working directory",
            )
    times = index_cache.times_of(files)
    made_of = index_cache.fingerprint("csv", str(file.absolute()), class_list.order, times)
    newest = max(changed for *_, changed in times) / 1e9
    return index_cache.kept(root, split, made_of, lambda: _listed(root, split, file, train_file, class_list), newest=newest)


def _listed(root: Path, split: Split, file: Path, train_file: Path | None, class_list: ClassList) -> ImageSet:
    paths, labels, lines, _ = _rows(file)
    known = set(_rows(train_file)[1]) if train_file and train_file != file and class_list.names is None else set(labels)
    where = str(train_file if train_file and class_list.names is None else file)
    classes = class_list.settle(known, where, all_of_them=False)
    numbers = label_numbers(labels, classes, str(file))
    names, problems = _found(root, file, paths, lines)
    _refuse(file, problems)
    return ImageSet(root, split, file, classes, numbers, names, class_folders=False)


def read_column(file: Path, name: str) -> list[str]:
    """The values of a column of a list, in the order of its images. Raises DataError when it has no such column, or a row no value."""
    return _rows(file, name)[3]


def _rows(file: Path, more: str | None = None) -> tuple[list[str], list[str], array[int], list[str]]:
    """Path, label and line of each row, and the value of `more`, another column."""
    problems: list[str] = []
    paths, labels, lines, values = list[str](), list[str](), array("q"), list[str]()
    once: dict[str, str] = {}
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        reader = csv.reader(opened, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if not {"path", "label"} <= set(header):
                raise DataError(
                    f"{file}, line 1: the columns are {', '.join(header) or 'missing'}", "the first line names them: path,label"
                )
            if more is not None and more not in header:
                raise DataError(
                    f"{file} has no column '{more}': the columns are {', '.join(header)}", "set data.group_by_column"
                )
            path_column, label_column = header.index("path"), header.index("label")
            more_column = label_column if more is None else header.index(more)
            for row in reader:
                if not row:
                    continue
                wrong = _wrong_in(row, len(header), path_column, label_column)
                if not (wrong or row[more_column]):
                    wrong = f"no {more} for {row[path_column]}"
                if wrong:
                    problems.append(f"line {reader.line_num}: {wrong}")
                    continue
                paths.append(row[path_column])
                labels.append(once.setdefault(row[label_column], row[label_column]))
                values.append(once.setdefault(row[more_column], row[more_column]))
                lines.append(reader.line_num)
        except csv.Error as fault:
            problems.append(f"line {reader.line_num}: {fault}")
    _refuse(file, problems)
    if not paths:
        raise DataError(f"{file} names no images", "write a line `path,label` for each")
    return paths, labels, lines, values


def _wrong_in(row: Sequence[str], columns: int, path_column: int, label_column: int) -> str | None:
    if len(row) != columns:
        return f"{len(row)} columns instead of {columns}; quote a name that holds a comma"
    if not row[path_column]:
        return "no path"
    return None if row[label_column] else f"no label for {row[path_column]}"


def _found(root: Path, file: Path, paths: Sequence[str], lines: Sequence[int]) -> tuple[Names, list[str]]:
    """The paths, made absolute, and those that lead nowhere."""
    base = _base(root, file, paths)
    absolute = [os.path.join(base, path) for path in paths]  # noqa: PTH118  (a million of them)
    step = -(-len(paths) // MAX_LOOKED_FOR)
    missing = (i for i in range(0, len(paths), step) if not os.path.lexists(absolute[i]))
    problems = [f"line {lines[i]}: there is no file {absolute[i]}" for i in missing]
    return Names.of(map(os.fsencode, absolute)), problems


def _base(root: Path, file: Path, paths: Sequence[str]) -> str:
    """The folder that relative paths start from: the list's own, or the data set's root where the first one lies there."""
    own = os.path.abspath(file.parent)  # noqa: PTH100  (links stay as they are)
    first = next((path for path in paths if not Path(path).is_absolute()), None)
    if first is None or os.path.lexists(Path(own, first)):
        return own
    there = os.path.abspath(root)  # noqa: PTH100
    return there if os.path.lexists(Path(there, first)) else own


def _refuse(file: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"\n  and {len(problems) - _MAX_SHOWN} more" if len(problems) > _MAX_SHOWN else ""
        listed = "".join(f"\n  {problem}" for problem in problems[:_MAX_SHOWN])
        raise DataError(
            f"{file} cannot be used:{listed}{more}", "paths are absolute, or relative to the list's folder or to data.root"
        )
