"""`inceptionctl report`: one page about several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, renamed, runs_named
from inceptionctl.stages.sources import refuse_missing_ensembles


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|ENSEMBLE...",
            help="Run directories or their names under runs/, and JSON files of `inceptionctl ensemble --output`.",
            callback=runs_named,
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.html and the pictures.")] = Path("report"),
    out: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Write a page about runs: curves, evaluations (of ImageNet beside the paper's tables), calibration, confusions, recipes compared.

    The page holds everything itself, so that it can be sent; the pictures lie beside it as PNG files.
    """
    from inceptionctl.run import open_run

    folder = renamed("--out", "--output", out, output)
    ensembles = [source for source in sources if source.suffix == ".json"]
    runs = [source for source in sources if source not in ensembles]
    for run in runs:
        open_run(run)
    refuse_missing_ensembles(ensembles)

    from inceptionctl.report.page import write_report

    page = write_report(runs, ensembles, folder)
    if as_json:
        pictures = sorted(str(file) for file in folder.glob("*.png"))
        console.print_json({"page": str(page), "bytes": page.stat().st_size, "pictures": pictures})
    console.say(f"wrote {page} ({console.size(page.stat().st_size)})")
