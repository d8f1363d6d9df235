"""`inceptionctl report`: one page about several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.cli.sources import refuse_missing_ensembles


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|ENSEMBLE...", help="Run directories, and JSON files of `inceptionctl ensemble --output`."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.html and the pictures.")] = Path("report"),
    as_json: Json = False,
) -> None:
    """Write a page about runs: curves, evaluations beside the paper's tables, calibration, confusions, what the recipes differ in.

    The page holds everything itself, so that it can be sent; the pictures lie beside it as PNG files.
    """
    from inceptionctl.run import open_run

    ensembles = [source for source in sources if source.suffix == ".json"]
    for source in sources:
        if source not in ensembles:
            open_run(source)
    refuse_missing_ensembles(ensembles)

    from inceptionctl.report.page import write_report

    page = write_report([source for source in sources if source not in ensembles], ensembles, out)
    if as_json:
        console.print_json({"page": str(page), "bytes": page.stat().st_size})
    console.say(f"wrote {page} ({console.size(page.stat().st_size)})")
