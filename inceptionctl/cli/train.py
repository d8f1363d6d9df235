"""`inceptionctl train`: start the ranks of this machine, or be one rank of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.group import is_lower_rank
from inceptionctl.cli.options import CpuRanks, Gpus, Json, NoData, RecipeArgument, RunOutput, Settings, requested
from inceptionctl.cli.runs import summary_of
from inceptionctl.errors import RecipeError


def train(
    recipe: RecipeArgument,
    settings: Settings = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    output: RunOutput = None,
    resume: Annotated[
        str,
        typer.Option(metavar="auto|never|PATH", help="Resume this recipe's newest run, start a new one, or resume from PATH."),
    ] = "auto",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port that the ranks of this machine use; a free one by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and exit.")] = False,
    no_data: NoData = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, or resume its run.

    In an ordinary shell it starts one rank per GPU of this machine. Under torchrun or srun (RANK or SLURM_* set) it is one rank of the job.
    Rerun the same command to resume at the very next sample.
    """
    from inceptionctl.stages.train import TrainRequest
    from inceptionctl.stages.train import plan as plan_training
    from inceptionctl.stages.train import train as train_recipe

    if no_data and not dry_run:
        raise RecipeError("--no-data: training needs the data set", "add --dry-run, or leave --no-data out")
    request = requested(locals(), TrainRequest)
    if dry_run:
        _print_plan(recipe, plan_training(request, data=not no_data), as_json)
        return
    run = train_recipe(request)
    if as_json and not is_lower_rank():
        console.print_json(summary_of(run))


def _print_plan(name: str, plan: console.JsonObject, as_json: bool) -> None:
    for warning in plan["warnings"]:
        console.warn(warning)
    if as_json:
        console.print_json(plan)
        return
    # disk_needed says it in words.
    shown = [
        (key.replace("_", " "), _shown(value)) for key, value in plan.items() if key not in ("disk_needed_bytes", "warnings")
    ]
    console.print_pairs(f"Plan of {name}", shown)


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return console.settings(value)
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else "unknown" if value is None else value
