"""The tables that `inceptionctl data check` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.data.audit.check import DataReport, Item, SplitReport, Spread

MAX_CLASSES = 20
MAX_BAD = 20
MAX_ODD = 3  # of each kind


def print_report(report: DataReport) -> None:
    """Counts and sizes, findings, bad images, examples of odd ones, and problems, the most serious last."""
    splits = [split.split for split in report.splits]
    rows = zip(_PROPERTIES, *map(_properties, report.splits), strict=True)
    groups = [split.num_groups for split in report.splits]
    kept = [("groups, none on both sides", *(f"{count:,}" for count in groups if count is not None))] if any(groups) else []
    console.print_table(f"Images of {report.root}", ("", *splits), [*rows, *kept])
    _print_classes(report.splits)
    _print_found(report)
    if report.bad:
        bad = [(item.name, item.reason) for item in report.bad[:MAX_BAD]]
        rest = [(f"and {len(report.bad) - MAX_BAD:,} more", "")] if len(report.bad) > MAX_BAD else []
        console.out.print()
        console.print_table("Bad images", ("image", "reason"), bad + rest, whole=("image",))
    examples = [(kind, item.name, item.remarks[kind]) for kind, item in _examples(report)]
    if examples:
        console.out.print()
        console.print_table(f"Odd images, up to {MAX_ODD} of a kind", ("kind", "image", "remark"), examples, whole=("image",))
    if report.duplicates.groups:
        _print_duplicates(report)
    _print_passed_over(report)
    for problem in report.problems:
        console.warn(problem)


_PROPERTIES = ("images", "size", "formats", "classes", "images a class", "width", "height", "bad")


def _properties(split: SplitReport) -> tuple[object, ...]:
    formats = ", ".join(f"{name} {count:,}" for name, count in split.formats.items())
    spreads = map(_spread, (split.images_per_class, split.width, split.height))
    return f"{split.num_images:,}", console.size(split.bytes), formats, len(split.class_counts), *spreads, f"{len(split.bad):,}"


def _spread(spread: Spread) -> str:
    if spread.min == spread.max:
        return "" if spread.min is None else str(spread.min)
    return f"{spread.min} to {spread.max}, median {spread.median}"


def _print_classes(splits: Sequence[SplitReport]) -> None:
    names = list(dict.fromkeys(name for split in splits for name in split.class_counts))
    if len(names) <= MAX_CLASSES:
        by_class = [(name, *(split.class_counts.get(name, 0) for split in splits)) for name in names]
        columns = [split.split for split in splits]
        console.out.print()
        console.print_table("Images a class", ("class", *columns), by_class, right=columns)


def _print_found(report: DataReport) -> None:
    from inceptionctl.data.audit.probe import BAD, KINDS

    columns = [split.split for split in report.splits]
    copies = [
        len({copy.name for group in report.duplicates.groups for copy in group if copy.split == name}) for name in columns
    ]
    counts = {kind: [split.found.get(kind, 0) for split in report.splits] for kind in KINDS} | {"duplicate": copies}
    rows = [("bad" if kind in BAD else "odd", kind, *counts[kind], words) for kind, words in KINDS.items() if any(counts[kind])]
    console.out.print()
    if rows:
        console.print_table("Findings", ("", "kind", *columns, "what"), rows, right=columns)
    else:
        console.out.print("No bad or odd images were found.")


def _print_passed_over(report: DataReport) -> None:
    from inceptionctl.data.audit.check import OTHER

    rows = [
        (split.split, found.what, f"{found.count:,}", found.example) for split in report.splits for found in split.passed_over
    ]
    if not rows:
        return
    console.out.print()
    console.print_table("Ignored, also by training", ("split", "what", "files", "for example"), rows, right=("files",))
    meant = sum(found.count for split in report.splits for found in split.passed_over if found.what != OTHER)
    if meant:
        console.warn(
            f"{counted(meant, 'file')} that may be images {'is' if meant == 1 else 'are'} ignored",
            "put images into <split>/<class>/ itself; rename .jfif and .jpe to .jpg, and convert HEIC and other undecodable formats",
        )


def _examples(report: DataReport) -> Iterator[tuple[str, Item]]:
    """Some images of each odd kind; none of gray ones, which are usually half of a data set, or all of it."""
    from inceptionctl.data.audit.probe import ODD

    for kind in ODD:
        found = (item for split in report.splits for item in split.odd if kind in item.remarks and kind != "gray")
        yield from ((kind, item) for item in islice(found, MAX_ODD))


def _print_duplicates(report: DataReport) -> None:
    groups = report.duplicates.groups
    # Leaks and contradictions first.
    worst = sorted(
        groups, key=lambda group: (len({copy.split for copy in group}) == 1, len({copy.label for copy in group}) == 1)
    )
    rows = [
        (
            ", ".join(dict.fromkeys(copy.split for copy in group)),
            ", ".join(dict.fromkeys(copy.label for copy in group)),
            ", ".join(copy.name for copy in group[:3]) + (f" and {len(group) - 3} more" if len(group) > 3 else ""),
        )
        for group in worst[:MAX_BAD]
    ]
    if len(groups) > MAX_BAD:
        rows.append(("", "", f"and {len(groups) - MAX_BAD:,} more"))
    console.out.print()
    console.print_table(f"Exact duplicates: {len(groups):,}", ("splits", "classes", "images"), rows)
