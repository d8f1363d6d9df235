"""`inceptionctl watch`: follow a run in the terminal, here or on another machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, RunArgument
from inceptionctl.cli.runs import opened, summary_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from inceptionctl.run import Run


def watch(
    run: RunArgument,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and exit, as without a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Follow a run live until it is finished or Ctrl-C. Reads only its files, which another machine may be writing."""
    from rich.live import Live

    found = opened(run)
    if as_json:
        console.print_json(summary_of(found))
        return
    frame, finished = _frame(found)
    if once or not console.out.is_terminal:
        console.out.print(frame)
        return
    try:
        with Live(frame, console=console.out, auto_refresh=False) as live:
            while not finished:
                time.sleep(every)
                frame, finished = _frame(found)
                live.update(frame, refresh=True)
    except KeyboardInterrupt:
        return  # the training itself continues


def _frame(run: Run) -> tuple[RenderableType, bool]:
    """(what to show, whether the run is finished)."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from inceptionctl.report.status import ASCII_BARS, BARS, lines, seconds_left, total_steps
    from inceptionctl.run_contents import read_run

    found = read_run(run)
    grid = Table.grid(padding=(0, 2))
    bars = ASCII_BARS if console.out.options.ascii_only else BARS
    for name, value in lines(found, time.time(), bars):
        grid.add_row(Text(name), Text(value))
    left, total = seconds_left(found), total_steps(found)
    finished = found.state == "finished"
    if left is not None and not finished:
        grid.add_row(Text("left"), Text(console.duration(left)))
    if total:
        grid.add_row(Text("done"), ProgressBar(total=total, completed=min(found.step, total), width=48))
    problems = [Text(f"problem: {problem}") for problem in found.problems]
    return Group(Text(str(run.path), style="bold"), grid, *problems), finished
