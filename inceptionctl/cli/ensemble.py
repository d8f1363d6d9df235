"""`inceptionctl ensemble`: the mean prediction of several trained networks, or of the members of an ensemble recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import CheckpointOption, ClassIdsOption, CpuRanks, Gpus, Json, Settings, requested
from inceptionctl.errors import RecipeError
from inceptionctl.protocols import ProtocolName
from inceptionctl.stages.ensemble import Combined, EnsembleRequest, Planned
from inceptionctl.stages.ensemble import ensemble as run_ensemble
from inceptionctl.words import counted, has_top5

if TYPE_CHECKING:
    from inceptionctl.evaluate.results import EnsembleResult, MemberFigures


def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECIPE | RUN|EVALUATION...",
            help="An ensemble recipe; or runs, also by name, and .json or .parquet files of `evaluate` or `predict --submission`.",
        ),
    ],
    settings: Settings = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="How members are evaluated; by default as the recipe says, for runs `single`.")
    ] = None,
    checkpoint: CheckpointOption = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,...", help="Weight of each member; by default the recipe's, for runs equal.")
    ] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    saved_only: Annotated[
        bool, typer.Option("--saved-only", help="Train and evaluate nothing; exit with code 5 if an evaluation is missing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="JSON file, with a .parquet next to it; for a recipe the folder of runs and results, runs/NAME by default."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained and evaluated, and exit.")] = False,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the ensemble's predictions for the ILSVRC test server, as `predict` does."),
    ] = None,
    class_ids: ClassIdsOption = None,
    as_json: Json = False,
) -> None:
    """Average the class probabilities of several networks, as the paper's ensembles do.

    The members of a recipe are trained one after the other, evaluated and combined; rerun the same command to resume. A run contributes
    the evaluation of its best checkpoint by the protocol, and is evaluated first if there is none.
    """
    found = run_ensemble(requested(locals(), EnsembleRequest, weights=_numbers(weights)))
    if as_json:
        console.print_json(found.to_json())
    elif isinstance(found, Planned):
        _print_plan(found)
    elif found.result:
        _print(found.result)
    if isinstance(found, Combined) and found.output:
        console.say(f"wrote {found.output} and {found.output.with_suffix('.parquet').name}")


def _numbers(weights: str | None) -> list[float] | None:
    if weights is None:
        return None
    try:
        return [float(word) for word in weights.split(",")]
    except ValueError:
        raise RecipeError(f"--weights {weights}: not numbers", "for example --weights 2,1,1") from None


def _print_plan(plan: Planned) -> None:
    if plan.recipe is None:
        rows = [(row["member"], row["evaluation"] or f"by {plan.protocol}: to be made") for row in plan.members]
        console.print_table("What would be combined", ("member", "evaluation"), rows)
        return
    columns = ("member", "network", "seed", "epochs", "state")
    cells = [(*(row[key] for key in columns[:3]), f"{row['epochs']:g}", row["to_do"]) for row in plan.members]
    title = f"Ensemble of {plan.recipe} in {Path(plan.members[0]['run']).parent}"
    console.print_table(title, columns, cells, right=("seed", "epochs"), whole=("member",))


def _print(result: EnsembleResult) -> None:
    top5 = has_top5(len(result["classes"]))
    rows = [(member["name"], f"{member['weight']:.3g}", *_errors(member, top5)) for member in result["members"]]
    rows.append(("ensemble", "", *_errors(result, top5)))
    columns = ("member", "weight", "top-1 error %", "accuracy %", *(["top-5 error %"] if top5 else []), "loss", "ms an image")
    title = f"Ensemble, {result['protocol']}, {counted(result['num_images'], 'image')}"
    console.print_table(title, columns, rows, right=columns[1:])
    low, high = result["top1_error_interval"]
    console.out.print(f"top-1 error of the ensemble: 95% between {low:.2f} and {high:.2f}")
    macro = result["macro_average"]
    shown = (("precision", macro["precision"]), ("recall", macro["recall"]), ("F1", macro["f1"]), ("ROC AUC", macro["roc_auc"]))
    known = [f"{name} {value:.3f}" for name, value in shown if value is not None]
    console.out.print(f"macro average of the ensemble: {', '.join(known)}")
    pairs = [f"{one['members'][0] + 1} and {one['members'][1] + 1}: {one['percent']:.1f}%" for one in result["differ"]]
    console.out.print(f"all members agree on {result['agree']:.1f}% of the images; pairs differ: {', '.join(pairs)}")


def _errors(figures: EnsembleResult | MemberFigures, top5: bool) -> tuple[str, ...]:
    taken, error = figures["seconds_per_image"], figures["top1_error"]
    errors = f"{error:.2f}", f"{100.0 - error:.2f}", *([f"{figures['top5_error']:.2f}"] if top5 else [])
    return *errors, f"{figures['loss']:.4f}", "" if taken is None else f"{1000.0 * taken:,.1f}"
