"""`inceptionctl report` as a call: one page about several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inceptionctl.errors import DataError


@dataclass(frozen=True)
class ReportRequest:
    """What the page is about."""

    sources: tuple[Path, ...]
    """Run directories, and JSON files that `evaluate` or `ensemble` has written."""
    output: Path = Path("report")
    """Folder for index.html and the figures."""


@dataclass(frozen=True)
class ReportResult:
    """What was written."""

    page: Path
    pictures: tuple[Path, ...]


def report(request: ReportRequest) -> ReportResult:
    """Write the self-contained page, and its figures next to it as PNG files.

    Raises CheckpointError and DataError for what is not there.
    """
    from inceptionctl.run import open_run

    files = [source for source in request.sources if source.suffix == ".json"]
    runs = [source for source in request.sources if source not in files]
    for run in runs:
        open_run(run)
    for file in files:
        if not file.is_file():
            raise DataError(f"there is no {file}", "`inceptionctl evaluate` and `ensemble` write one with --output FILE")

    from inceptionctl.report.page import write_report

    page = write_report(runs, files, request.output)
    return ReportResult(page, tuple(sorted(request.output.glob("*.png"))))
