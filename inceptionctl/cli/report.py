"""`inceptionctl report`: one page about several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import runs_named


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|ENSEMBLE...",
            help="Run directories or their names under runs/, and JSON files of `inceptionctl ensemble --output`.",
            callback=runs_named,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.html and the pictures.")] = Path("report"),
) -> None:
    """Write a page about runs: curves, evaluations beside the paper's tables, calibration, confusions, what the recipes differ in.

    The page holds everything itself, so that it can be sent; the pictures lie beside it as PNG files.
    """
    from inceptionctl.report.page import write_report

    ensembles = [source for source in sources if source.suffix == ".json"]
    page = write_report([source for source in sources if source not in ensembles], ensembles, out)
    console.say(f"wrote {page} ({console.size(page.stat().st_size)})")
