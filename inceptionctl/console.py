"""What people see: data on stdout, messages on stderr, readable without colour."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from inceptionctl.errors import InceptionctlError

UNBROKEN = 1_000_000
SEPARATOR_WIDTH = 3
INDENT = "  "


class _Stderr:
    """Whatever standard error is at the moment. A terminal that has gone takes nothing, and is no reason for a training to end unsaved."""

    def write(self, text: str) -> int:
        with _lost_terminal():
            _stderr().write(text)
        return len(text)

    def flush(self) -> None:
        with _lost_terminal():
            _stderr().flush()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(_stderr(), name)


def _stderr() -> IO[str]:
    # A live line puts a stand-in of rich's there, which prints what is written to it through `err`.
    return cast(IO[str], getattr(sys.stderr, "rich_proxied_file", sys.stderr))


@contextmanager
def _lost_terminal() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class _Console(Console):
    @property
    def encoding(self) -> str:
        """That of the stream, by which tables are drawn in ASCII; rich's own is that of a file which it was given."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


class _Output(_Console):
    """stdout. Only a terminal has a width: in a file or a pipe no line is broken."""

    @property  # type: ignore[misc]  # its setter, which nobody here calls, is left out
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(UNBROKEN, found.height)


# Nothing here is markup or a number to be coloured: file names with brackets must come out as they are.
out: Console = _Output(markup=False, highlight=False, soft_wrap=False)
err = _Console(file=cast(IO[str], _Stderr()), stderr=True, markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A message for people, on stderr."""
    err.print(message)


def warn(message: str, hint: str | None = None) -> None:
    """A problem that stops nothing but should be known, on stderr."""
    err.print(Text.assemble(("warning: ", "bold yellow"), message))
    if hint:
        err.print(Text.assemble(("hint: ", "bold"), hint))


def print_error(error: InceptionctlError) -> None:
    """An error with its problems and hints, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), error.message))
    for problem in error.problems:
        err.print(Text.assemble("\n  ", (problem.where, "bold"), f": {problem.message}"))
        if problem.hint:
            err.print(f"    hint: {problem.hint}")
    if error.hint:
        err.print(Text.assemble(("\nhint: ", "bold"), error.hint))


JsonObject = dict[str, Any]
"""A JSON object: a result for programs, a file of a run, or a message between ranks."""
json_on_stdout: list[Any] = []
"""What `print_json` has printed since the command began."""


def error_object(error: InceptionctlError) -> JsonObject:
    """An error for programs: `error`, `hint`, `exit_code`, and the `problems` of a recipe."""
    told: JsonObject = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    if error.problems:
        told["problems"] = [{"where": item.where, "message": item.message, "hint": item.hint} for item in error.problems]
    return told


def print_json(value: Any) -> None:
    """A result for programs, on stdout."""
    json_on_stdout.append(value)
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
    """A table on stdout. The columns named in `right` are numbers; those and the ones in `whole` keep each cell on one line.

    The others are broken between words alone, so that a name can be copied. Where a terminal is too narrow even for that, each row
    becomes its first cell and a paragraph of the rest.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    out.print(Text(title, style="bold"), soft_wrap=True)
    widths = _widths(columns, cells, {*right, *whole}, out.width - SEPARATOR_WIDTH * (len(columns) - 1))
    if widths is None:
        _print_paragraphs(columns, cells)
        return
    table = Table(header_style="bold", show_edge=False, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, justify="right" if column in right else "left", width=width)
    for row in cells:
        table.add_row(*row)
    out.print(table)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], whole: set[str], room: int) -> list[int] | None:
    """Widths of the columns that add up to `room` at most; None where words would have to be broken for that."""
    widths, least = [], []
    for column, name in enumerate(columns):
        held = [row[column] for row in cells]
        widest = max((cell_len(line) for cell in held for line in cell.splitlines()), default=0)
        words = [name] if name in whole else [name, *held]
        longest_word = max((cell_len(word) for text in words for word in text.split()), default=0)
        widths.append(max(widest, cell_len(name)))
        least.append(max(longest_word, widest if name in whole else 0))
    if sum(least) > room:
        return None
    while sum(widths) > room:
        _, column = max((width, i) for i, width in enumerate(widths) if width > least[i])
        widths[column] -= 1
    return widths


def _print_paragraphs(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    for name, *rest in cells:
        out.print(Text(name, style="bold"), soft_wrap=True)
        named = [f"{column}: {cell}" if column else cell for column, cell in zip(columns[1:], rest, strict=True) if cell]
        for line in _filled(named, out.width - len(INDENT)):
            out.print(INDENT + line, soft_wrap=True)


def _filled(items: Iterable[str], width: int) -> list[str]:
    """Lines of as many items as fit; one that fits into no line is broken between words."""
    lines: list[str] = []
    for item in items:
        first, *more = broken(item, width)
        if lines and cell_len(lines[-1]) + len(", ") + cell_len(first) <= width and not more:
            lines[-1] += f", {first}"
        else:
            lines += [first, *more]
    return lines


def broken(text: str, width: int) -> list[str]:
    """Lines of `width` cells at most, broken between words alone: a longer word has a line to itself."""
    lines = []
    for given in text.splitlines() or [""]:
        line, *words = given.split(" ")
        for word in words:
            if cell_len(line) + 1 + cell_len(word) <= width:
                line += f" {word}"
            else:
                lines.append(line)
                line = word
        lines.append(line)
    return lines


def print_pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values on stdout, values broken between words alone."""
    listed = [(name, str(value)) for name, value in pairs]
    indent = max((cell_len(name) for name, _ in listed), default=0) + 2
    if title:
        out.print(Text(title, style="bold"), soft_wrap=True)
    for name, value in listed:
        head = Text.assemble((name, "bold"), " " * (indent - cell_len(name)))
        for line in broken(value, out.width - indent):
            out.print(head + line, soft_wrap=True)
            head = Text(" " * indent)


def settings(values: Mapping[str, Any], number: str = "{:g}") -> str:
    """Nested values in one line, as `--set` takes them: `name=rmsprop, decay=0.9`. `number` is the format of floats."""
    return ", ".join(f"{key}={value}" for key, value in _leaves(values, "", number))


def _leaves(values: Mapping[str, Any], prefix: str, number: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.", number)
        elif isinstance(value, float):
            yield f"{prefix}{key}", number.format(value)
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def working(on: str) -> Status:
    """A spinner on a terminal, nothing elsewhere; of ASCII where the terminal knows no more, since rich leaves that to the caller."""
    return err.status(on, spinner="line" if err.options.ascii_only else "dots")


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
