"""`inceptionctl runs prune`: free the disk of checkpoints that can be spared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, runs_named
from inceptionctl.errors import RecipeError
from inceptionctl.words import counted


def prune(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUNS...", help="Run directories, or their names under runs/; all in runs/ by default."),
    ] = None,
    keep: Annotated[int, typer.Option(metavar="N", min=1, help="Newest checkpoints to keep in each run.")] = 1,
    permanent: Annotated[
        bool, typer.Option("--permanent", help="Also remove what checkpoint.keep_every_epochs keeps permanently.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed and its size, and exit.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Remove checkpoints of finished runs, except the newest, the best and permanent ones.

    Unfinished runs are left alone. The newest checkpoint of a run is verified first, every byte, and a run is left alone if it is damaged.
    """
    from inceptionctl.stages.prune import plan
    from inceptionctl.stages.prune import prune as remove

    planned = plan(_runs(runs), keep=keep, permanent=permanent)
    count = sum(len(entry["remove"]) for entry in planned["runs"])
    if dry_run or not as_json:
        _print(planned, as_json)
    if dry_run:
        return
    if count and not yes:
        _ask(f"Remove {counted(count, 'checkpoint')}, {console.size(planned['bytes'])}?", may_ask=not as_json)
    done = remove(planned, keep=keep, permanent=permanent)
    if as_json:
        console.print_json(done)
    elif count:
        removed = sum(len(entry["remove"]) for entry in done["runs"])
        console.say(f"removed {counted(removed, 'checkpoint')}, {console.size(done['bytes'])}")


def _runs(named: list[Path] | None) -> list[Path]:
    from inceptionctl.run import RUNS, open_run, visible
    from inceptionctl.run_contents import looks_like_run

    if not named:
        return sorted(path for path in visible(RUNS) if looks_like_run(path))
    found = {path.resolve(): path for path in runs_named(named)}
    return [path if looks_like_run(path) else open_run(path).path for path in found.values()]  # which words the error


def _ask(question: str, *, may_ask: bool) -> None:
    if not (may_ask and sys.stdin.isatty()):
        raise RecipeError("nothing was removed: it needs a confirmation", "add --yes to remove, or --dry-run to only look")
    if not typer.confirm(question, err=True):
        console.say("nothing was removed")
        raise typer.Exit(1)


def _print(planned: console.JsonObject, as_json: bool) -> None:
    if as_json:
        console.print_json(planned)
        return
    rows = [(entry["path"], item["name"], console.size(item["bytes"])) for entry in planned["runs"] for item in entry["remove"]]
    if rows:
        total = f"Can be removed: {counted(len(rows), 'checkpoint')}, {console.size(planned['bytes'])}"
        console.print_table(total, ("run", "checkpoint", "size"), rows, ("size",), ("run", "checkpoint"))
    else:
        console.say("no checkpoint can be spared")
    for entry in planned["runs"]:
        if entry["left_alone"]:
            console.say(f"{entry['path']}: left alone: {entry['left_alone']}")
