"""`inceptionctl report`: one page for several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, renamed, requested, runs_named


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|FILE...",
            help="Run directories or their names under runs/, and JSON files written by `evaluate` or `ensemble` with --output.",
            callback=runs_named,
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.html and the figures.")] = Path("report"),
    out: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Write an HTML report of runs: curves, evaluations (for ImageNet next to the paper's tables), calibration, confusion, recipes.

    The page is self-contained; its figures are also written as PNG files.
    """
    from inceptionctl.stages.report import ReportRequest
    from inceptionctl.stages.report import report as write_report

    done = write_report(requested(locals(), ReportRequest, output=renamed("--out", "--output", out, output)))
    size = done.page.stat().st_size
    if as_json:
        console.print_json({"page": str(done.page), "bytes": size, "pictures": [str(file) for file in done.pictures]})
    console.say(f"wrote {done.page} ({console.size(size)})")
