"""The command line: parse, call a stage, print. Nothing here imports torch, DALI or DeepSpeed before a command needs it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from inceptionctl import __version__, console, home, streams
from inceptionctl.cli import (
    bench,
    checkpoints,
    data,
    doctor,
    ensemble,
    evaluate,
    export,
    models,
    plan,
    predict,
    recipes,
    report,
    runs,
    slurm,
    study,
    train,
    watch,
    weights,
)
from inceptionctl.cli.group import ErrorGroup
from inceptionctl.errors import EnvironmentFault, InceptionctlError

app = typer.Typer(
    name="inceptionctl",
    cls=ErrorGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    *(train.train, plan.plan, evaluate.evaluate, ensemble.ensemble, study.study, report.report, watch.watch),
    *(export.export, predict.predict, doctor.doctor),
):
    app.command()(verb)
for name, group in {
    **{"recipes": recipes, "data": data, "models": models, "weights": weights},
    **{"runs": runs, "checkpoints": checkpoints, "slurm": slurm, "bench": bench},
}.items():
    app.add_typer(group.app, name=name)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inceptionctl {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 success, 2 recipe or usage, 3 data, 4 environment, 5 checkpoint, 6 diverged, 75 stopped (rerun to resume),"
    " 130 interrupted."
)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, resume, evaluate and export the networks of the Inception-v4 paper."""


def main() -> None:
    """Entry point of the `inceptionctl` command."""
    streams.prepare()
    try:
        home.prepare()
        code = _run()
        sys.stdout.flush()
    except (InceptionctlError, OSError) as error:  # of --help, which is printed before there is a command
        worded = error if isinstance(error, InceptionctlError) else EnvironmentFault(f"cannot write: {error.strerror}")
        console.print_error(worded)
        code = worded.exit_code
    except SystemExit as ended:
        code = ended.code
    if isinstance(code, int | None):
        from inceptionctl.distributed.exit import has_joined_ranks, leave

        if has_joined_ranks():
            leave(code or 0)
    sys.exit(code)


def _run() -> str | int | None:
    try:
        app()
    except SystemExit as ended:
        return ended.code
    return 0
