"""`inceptionctl runs`: what is in run directories, damaged ones included."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.checkpoints import print_checkpoints
from inceptionctl.cli.help import Group
from inceptionctl.cli.options import Json, RunArgument, runs_named
from inceptionctl.cli.runs_prune import prune
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.words import counted, with_top5_where

if TYPE_CHECKING:
    from inceptionctl.report.run_comparison import Comparison
    from inceptionctl.run import Run
    from inceptionctl.run_contents import Row, RunContents

app = typer.Typer(help="List, show, compare and prune runs.", no_args_is_help=True, cls=Group)
app.command()(prune)

ROOT = Path("runs")
RECIPE_KEYS = (
    "model.name",
    "model.num_classes",
    "model.input_px",
    "model.width",
    "data.root",
    "optim.name",
    "schedule.name",
    "schedule.base_lr",
    "train.epochs",
    "train.max_steps",
    "train.global_batch_size",
    "train.precision",
    "train.seed",
)
VERSIONS = ("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130")


@app.command(name="list")
def list_runs(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of run directories.")] = ROOT,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, oldest first."""
    from inceptionctl.run_contents import read_run

    found = [_summary(read_run(run)) for run in _runs_under(root)]
    if as_json:
        console.print_json(_strict(found))
        return
    if not found:
        console.say(f"no runs under {root}; `inceptionctl train quickstart` creates one")
        return
    columns = ("run", "model", "step", "epoch", "best error %", "last loss", "state", "size")
    rows = [
        (
            item["name"],
            item["model"] or "?",
            f"{item['step']} / {'?' if item['total_steps'] is None else item['total_steps']}",
            _number(item["epoch"], 2),
            _number(item["best_top1_error"], 2) + ("" if item["validated_on"] == "all" else f" {item['validated_on']}"),
            _number(item["last_loss"], 4),
            item["state"],
            console.size(item["bytes"]),
        )
        for item in found
    ]
    console.print_table(
        f"Runs under {root}, with the best top-1 error of each",
        columns,
        rows,
        right=("step", "epoch", "best error %", "last loss", "size"),
        whole=("run", "model", "state"),
    )
    _print_lines([f"{item['name']}: {problem}" for item in found for problem in item["problems"]])
    console.say("`inceptionctl runs show RUN` shows one and how to resume it")


def _runs_under(root: Path) -> list[Run]:
    from inceptionctl.run import Run
    from inceptionctl.run_contents import looks_like_run

    if root == ROOT and not root.exists():
        return []
    if looks_like_run(root):
        raise CheckpointError(f"{root} is a run itself", f"inceptionctl runs show {shlex.quote(str(root))}")
    try:
        runs = [Run(path) for path in root.iterdir() if looks_like_run(path) and not path.name.startswith(".")]
    except OSError as error:
        raise CheckpointError(
            f"cannot list {root}: {error.strerror}", "name the folder that holds the run directories"
        ) from None
    return sorted(runs, key=_age)


def _age(run: Run) -> tuple[float, str]:
    file = run.recipe_file if run.recipe_file.exists() else run.path
    return file.stat().st_mtime, run.path.name


def _summary(found: RunContents) -> Row:
    from inceptionctl.run_contents import bytes_below

    loss = found.train_rows[-1].get("loss") if found.train_rows else None
    return {
        "name": found.run.path.name,
        "path": str(found.run.path),
        "model": found.recipe.model.name if found.recipe else None,
        "step": found.step,
        "total_steps": found.progress.get("total_steps"),
        "epoch": found.epoch,
        "best_top1_error": found.best_top1_error,
        "validated_on": found.validated_on,
        "last_loss": loss if isinstance(loss, float) else None,
        "state": found.state,
        "ended": found.ended or None,
        "bytes": bytes_below(found.run.path),
        "problems": found.problems,
    }


def summary_of(run: Run) -> Row:
    """The entry of a run in `runs list --json`, and the next commands."""
    from inceptionctl.run_contents import read_run

    found = read_run(run)
    told: Row = _strict({**_summary(found), "next": found.next_commands()})
    return told


@app.command()
def show(
    run: RunArgument,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot loss and errors by epoch: png, svg or pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Show a run: its recipe, starts, metrics and checkpoints, and the next command."""
    from inceptionctl.run_contents import files_below, read_run

    found = read_run(opened(run))
    result = {
        **_summary(found),
        "recipe": _main_keys(found),
        "starts": found.starts,
        "rollbacks": found.rollbacks,
        "last_train_row": found.train_rows[-1] if found.train_rows else None,
        "evaluate_rows": [with_top5_where(found.has_top5, row) for row in found.evaluate_rows],
        "checkpoints": found.checkpoints,
        "evaluations": files_below(found.run.evaluations),
        "export": files_below(found.run.export),
        "next": found.next_commands(),
    }
    if plot:
        from inceptionctl.report.curves import draw_curves

        draw_curves(found.run, plot)
        console.say(f"wrote {plot}")
    if as_json:
        console.print_json(_strict(result))
    else:
        _print_run(result, found.why, found.has_top5)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Two or more run directories, or their names under runs/.", callback=runs_named),
    ],
    as_json: Json = False,
) -> None:
    """Compare runs: the keys in which their recipes differ, and the ends of their curves."""
    from inceptionctl.report.run_comparison import compare_runs
    from inceptionctl.run_contents import read_run

    paths = list(dict.fromkeys(runs))
    if len(paths) < 2:
        raise RecipeError("one run alone compares with nothing", f"inceptionctl runs show {shlex.quote(str(paths[0]))}")
    result = compare_runs([read_run(opened(path)) for path in paths])
    if as_json:
        console.print_json(_strict(result))
    else:
        _print_comparison(result)


def _print_comparison(result: Comparison) -> None:
    runs = result["runs"]
    alike = len({item["name"] for item in runs}) < len(runs)
    names = [item["path"] if alike else item["name"] for item in runs]
    columns = ("run", "state", "step", "epoch", "last loss", "last error %", "best error %", "images/s", "time")
    rows = [
        (
            name,
            item["state"],
            f"{item['step']} / {'?' if item['total_steps'] is None else item['total_steps']}",
            _number(item["epoch"], 2),
            _number(item["last_loss"], 4),
            _error_at_step(item["last_validation"]),
            _error_at_step(item["best_validation"]),
            _number(item["images_per_second"], 1),
            "" if item["seconds"] is None else console.duration(item["seconds"]),
        )
        for name, item in zip(names, runs, strict=True)
    ]
    console.print_table("Ends of the curves; errors are top-1, with their step", columns, rows, columns[2:], ("run", "state"))
    differences = [
        (difference["key"], *(_value(difference["values"], item["path"]) for item in runs))
        for difference in result["differences"]
    ]
    _table("Recipes, where they differ", ("key", *names), differences, (), ("key",))
    if not differences:
        _print_lines(["the recipes are the same, as far as they can be read"])
    _print_lines([f"{name}: {problem}" for name, item in zip(names, runs, strict=True) for problem in item["problems"]])


def _error_at_step(row: Row | None) -> str:
    if row is None:
        return ""
    subset = row.get("subset", "all")
    return f"{row['top1_error']:.2f} at {row.get('step', '?')}" + ("" if subset == "all" else f", {subset}")


def _value(values: Row, path: str) -> str:
    if path not in values:
        return "-"
    value = values[path]
    return value if isinstance(value, str) else json.dumps(value)


def opened(path: Path) -> Run:
    """A run directory, even a damaged one. Raises CheckpointError for any other path."""
    from inceptionctl.run import Run, open_run
    from inceptionctl.run_contents import looks_like_run

    return Run(path) if looks_like_run(path) else open_run(path)  # which words the error


def _main_keys(found: RunContents) -> dict[str, object] | None:
    from inceptionctl.recipe.schema import flatten

    if found.recipe is None:
        return None
    flat = flatten(found.recipe.resolved())
    return {key: flat[key] for key in RECIPE_KEYS}


def _strict(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _print_run(result: Row, state: str, has_top5: bool) -> None:
    total = "?" if result["total_steps"] is None else result["total_steps"]
    epoch = "" if result["epoch"] is None else f", epoch {result['epoch']:.2f}"
    pairs = [
        ("state", state),
        ("step", f"{result['step']} of {total}{epoch}"),
        ("size", console.size(result["bytes"])),
    ]
    pairs += [(key, value) for key, value in (result["recipe"] or {}).items() if value is not None]
    console.print_pairs(result["path"], pairs)
    starts = [_start_row(entry) for entry in result["starts"]]
    _table(
        "Starts", ("when", "host", "job", "from step", "ranks", "on", "precision", "versions"), starts, ("from step", "ranks")
    )
    rollbacks = [
        (get("step", "?"), get("to_step", "?"), f"{get('first_batch', '?')} to {get('last_batch', '?')}", get("reason", "?"))
        for get in (entry.get for entry in result["rollbacks"])
    ]
    _table("Rollbacks", ("at step", "back to", "skipped batches", "because"), rollbacks, ("at step", "back to"))
    row = result["last_train_row"] or {}
    last = [_quantity(key, value) for key, value in row.items() if key not in ("kind", "time")]
    if last:
        console.out.print()
        console.print_pairs("Last training row", last)
    top5 = (("top-5 error %",), ("top5_error",)) if has_top5 else ((), ())
    columns = ("step", "epoch", "top-1 error %", "accuracy %", *top5[0], "loss", "images")
    keys = ("epoch", "top1_error", "accuracy", *top5[1], "loss")
    rows = [
        (
            row["step"],
            *(_number(row.get(key), 4 if key == "loss" else 2) for key in keys),
            f"{row.get('num_images', '')} {row.get('subset', '')}".strip().removesuffix(" all"),
        )
        for row in map(_with_accuracy, result["evaluate_rows"])
    ]
    _table("Evaluations while training", columns, rows, columns[:-1])
    if result["checkpoints"]:
        console.out.print()
        print_checkpoints("Checkpoints", result["checkpoints"])
    for title in ("evaluations", "export"):
        _table(
            f"Files in {title}/",
            ("file", "size"),
            [(item["name"], console.size(item["bytes"])) for item in result[title]],
            ("size",),
            ("file",),
        )
    _print_lines([f"problem: {problem}" for problem in result["problems"]])
    _print_lines([f"next: {command}" for command in result["next"]])


def _start_row(entry: Row) -> tuple[Any, ...]:
    gpus, cores, versions, slurm = (entry.get(key) for key in ("gpus", "cores", "versions", "slurm"))
    known = versions if isinstance(versions, dict) else {}
    shown = ", ".join(f"{name.removesuffix('-cuda130')} {known[name]}" for name in VERSIONS if name in known)
    place = f"CPU, {counted(cores, 'core') if isinstance(cores, int) else '? cores'}"
    if isinstance(gpus, list) and gpus:
        place = f"{len(gpus)} x {gpus[0]}"
    job = f"{slurm.get('job', '?')}, restart {slurm.get('restart', '?')}" if isinstance(slurm, dict) else None
    started, host, step, ranks, precision = (
        entry.get(key, "?") for key in ("started", "host", "from_step", "ranks", "precision")
    )
    return started, host, job, step, ranks, place, precision, shown


def _quantity(key: str, value: Any) -> tuple[str, str]:
    """A number of a row of metrics: its name and itself, for people."""
    if isinstance(value, dict):
        return key.replace("_", " "), console.settings(value, "{:.3g}")
    if key.endswith("_bytes") and isinstance(value, int | float):
        return key.removesuffix("_bytes").replace("_", " "), console.size(value)
    return key.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)


def _with_accuracy(row: Row) -> Row:
    error = row.get("top1_error")
    return row | {"accuracy": 100.0 - error} if isinstance(error, int | float) else row


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str], whole: Sequence[str] = ()
) -> None:
    if rows:
        console.out.print()
        console.print_table(title, columns, rows, right, whole)


def _print_lines(lines: Sequence[str]) -> None:
    if lines:
        console.out.print()
    for line in lines:
        # Not wrapped: a line may be a command to copy.
        console.out.print(line, soft_wrap=True)


def _number(value: Any, digits: int) -> str:
    """A float with at most `digits` decimals, anything else as it is, nothing for None."""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return "" if value is None else str(value)
