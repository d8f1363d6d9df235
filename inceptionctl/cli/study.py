"""`inceptionctl study`: arms of a study trained with several seeds, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import CpuRanks, Gpus, Json, RecipeArgument, Settings, requested
from inceptionctl.stages.study import Studied, StudyPlan, StudyRequest
from inceptionctl.stages.study import study as run_study
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.study.ensembles import EnsemblesResult, Estimate
    from inceptionctl.study.measures import PairedDifference, Summary
    from inceptionctl.study.result import ConditionResult, StudyResult


def study(
    recipe: RecipeArgument,
    settings: Settings = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Trainings at once; by default one per GPU, or per --gpus GPUs; on a CPU one."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of runs and page; runs/NAME by default.")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train and evaluate nothing; report what is there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Train the arms of a study with several seeds each, and compare them on a page.

    On a machine with GPUs each GPU trains a network of its own; --gpus and --cpu-ranks are the ranks of each training. Rerun the same
    command to resume. Several commands, on hosts of their own, share the work: each passes over what another one trains.
    """
    found = run_study(requested(locals(), StudyRequest))
    if as_json:
        console.print_json(found.to_json())
    elif isinstance(found, StudyPlan):
        columns = ("purpose", "condition", "seed", "value", "epochs", "images", "steps", "MACs", "state")
        rows = [_planned(row, columns) for row in found.trainings]
        rows.append(_planned({"purpose": f"all {len(rows)}", **found.sums}, columns))
        right = ("seed", "value", "epochs", "images", "steps", "MACs")
        console.print_table(f"Trainings of {recipe}", columns, rows, right=right, whole=("condition",))
        if found.evaluations:
            done = sum(row["evaluation"] is not None for row in found.evaluations)
            number = counted(len(found.evaluations), "evaluation")
            protocol = found.evaluations[0]["protocol"]
            console.out.print(f"Then {number} for the ensembles, by protocol {protocol}; {done} of them done")
    else:
        _print(found.result)
    if isinstance(found, Studied):
        console.say(f"wrote {found.page} and study.json")


def _planned(row: console.JsonObject, columns: tuple[str, ...]) -> tuple[str, ...]:
    macs = row["multiply_adds"]
    written = {**row, "MACs": None if macs is None else f"{macs:.2g}"}
    counts = {key: f"{row[key]:,}" for key in ("images", "steps") if row[key] is not None}
    return tuple(str(counts.get(key, "" if written.get(key) is None else written[key])) for key in columns)


def _print(result: StudyResult) -> None:
    tuned = [] if result["tuned_key"] is None else [result["tuned_key"].rpartition(".")[2]]
    limits = list(result["conditions"][0]["steps_to"])
    columns = (
        "arm",
        "n",
        "died",
        *tuned,
        "final error %",
        "final loss",
        "mean loss",
        *(f"steps to {limit}%" for limit in limits),
    )
    rows = [
        (
            *(one["name"], str(len(one["trainings"])), _dead(one)),
            *([f"{one['tuned']:g}" if one["tuned"] is not None else ""] if tuned else []),
            *(
                _spread(one["summaries"][key], digits)
                for key, digits in (("final_error", 2), ("final_loss", 3), ("mean_loss", 3))
            ),
            *(_steps_to(one["steps_to"][limit], len(one["trainings"])) for limit in limits),
        )
        for one in result["conditions"]
    ]
    console.print_table("Medians over the seeds (lowest to highest)", columns, rows, right=columns[1:], whole=("arm",))
    for one in result["differences"]:
        if one["measure"] in ("final_error", "mean_loss") and one["mean"] is not None:
            what = one["measure"].replace("_", " ")
            console.out.print(f"{one['other']} less {one['baseline']}, {what}: {one['mean']:.3f} ({_over_seeds(one)})")
    if result["ensembles"]:
        _print_ensembles(result["ensembles"])
    for problem in result["problems"]:
        console.warn(problem)
    if result["unfinished"]:
        console.warn(f"{counted(result['unfinished'], 'training')} not done yet", "rerun the same command to resume")


def _dead(one: ConditionResult) -> str:
    """How many died or diverged, and when."""
    steps = one["died_at"]
    at = "" if not steps["n"] else f" at {steps['low']:.0f}" + (f" to {steps['high']:.0f}" if steps["n"] > 1 else "")
    return f"{one['died'] + one['diverged']}{at}"


def _spread(one: Summary, digits: int) -> str:
    ends = f" ({one['low']:.{digits}f} to {one['high']:.{digits}f})" if one["n"] > 1 else ""
    return ("-" if one["median"] is None else f"{one['median']:.{digits}f}") + ends


def _steps_to(one: Summary, trained: int) -> str:
    return _spread(one, 0) + (f", {one['n']} of {trained}" if one["n"] < trained else "")


def _over_seeds(one: PairedDifference) -> str:
    """How far the seeds agree, and which they are."""
    within = f"{one['low']:.3f} to {one['high']:.3f} " if one["n"] > 1 else ""
    if one["interval"]:
        within = f"95% between {one['interval'][0]:.3f} and {one['interval'][1]:.3f} "
    if one["n"] == one["trained"]:
        return f"{within}over {counted(one['n'], 'seed')}"
    return f"{within}over {one['n']} of {counted(one['trained'], 'seed')}: those with both trainings to the end"


def _print_ensembles(found: EnsemblesResult) -> None:
    columns = ("name", "draws", "left out", "members", "ensemble", "gain of averaging")
    rows = [
        (
            *(one["name"], str(len(one["draws"])), str(one["died"])),
            *(_estimate(one["errors"]["top1_error"][key]) if one["errors"] else "-" for key in ("members", "ensemble", "gain")),
        )
        for one in found["ensembles"]
    ]
    console.print_table(
        f"Top-1 error in % by {found['protocol']}, means over the draws (95%)",
        columns,
        rows,
        right=columns[1:],
        whole=columns[:1],
    )
    for one in found["differences"]:
        if one["measure"] == "top1_error":
            told = ", ".join(f"{key.replace('_', ' ')} {_estimate(one[key])}" for key in DIFFERENCES)  # type: ignore[literal-required]
            console.out.print(f"{one['other']} less {one['baseline']}, top-1 error: {told}")
    missing = sum(one["unfinished"] for one in found["ensembles"])
    if missing:
        console.warn(
            f"networks of {counted(missing, 'draw')} are not trained or evaluated yet",
            "rerun the same command, without --report-only",
        )


DIFFERENCES = ("members", "ensembles", "ensembles_less_members")


def _estimate(one: Estimate) -> str:
    return f"{one['value']:.2f} ({one['interval'][0]:.2f} to {one['interval'][1]:.2f})"
