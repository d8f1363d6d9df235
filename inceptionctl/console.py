"""What people see: data on stdout, messages on stderr, readable without colour."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from inceptionctl.errors import InceptionctlError, RecipeError


class _Console(Console):
    @property
    def encoding(self) -> str:
        """That of the stream, by which tables are drawn in ASCII; rich's own is that of a file which it was given."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


# Nothing here is markup or a number to be coloured: file names with brackets must come out as they are.
out = _Console(markup=False, highlight=False, soft_wrap=False)
err = _Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A message for people, on stderr."""
    err.print(message)


def warn(message: str, hint: str | None = None) -> None:
    """Something that went on but should be known."""
    err.print(Text.assemble(("warning: ", "bold yellow"), message))
    if hint:
        err.print(Text.assemble(("hint: ", "bold"), hint))


def print_error(error: InceptionctlError) -> None:
    """An error with its problems and hints, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), error.message))
    if isinstance(error, RecipeError):
        for problem in error.problems:
            err.print(Text.assemble("\n  ", (problem.where, "bold"), f": {problem.message}"))
            if problem.hint:
                err.print(f"    hint: {problem.hint}")
    if error.hint:
        err.print(Text.assemble(("\nhint: ", "bold"), error.hint))


def print_json(value: Any) -> None:
    """A result for programs, on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # escaped as JSON has it, else the stream escapes it in its own way
        text = json.dumps(value, indent=2) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """A table on stdout; the columns named in `right` are numbers, those in `whole` are never broken, so that they can be copied."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)


def print_pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line, on stdout."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, str(value))
    if title:
        out.print(Text(title, style="bold"))
    out.print(grid)


def progress_bar() -> Progress:
    """A bar with counts and time left on a terminal, nothing elsewhere; it goes when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def duration(seconds: float) -> str:
    """Seconds for people: 7 s, 3:05, 2:03:05, 4 d 03:00:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours < 1:
        return f"{minutes}:{secs:02d}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}:{secs:02d}" if days else f"{hours}:{minutes:02d}:{secs:02d}"


def size(num_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} PB"
