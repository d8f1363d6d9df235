"""`inceptionctl ensemble`: the mean answer of several trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import ClassIdsOption, Json, ProtocolName
from inceptionctl.cli.predict import say_written
from inceptionctl.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from inceptionctl.evaluate.records import Record


def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|EVALUATION...",
            help="Runs, or .json or .parquet files that `evaluate` or `predict --submission` has written.",
        ),
    ],
    protocol: Annotated[ProtocolName, typer.Option(help="Which evaluation of a run is meant.")] = "single",
    weights: Annotated[str | None, typer.Option(metavar="W,...", help="Weight of each member; equal by default.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write.")] = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the ILSVRC test server's file of the ensemble, as `predict` does."),
    ] = None,
    class_ids: ClassIdsOption = None,
    as_json: Json = False,
) -> None:
    """Average the class probabilities of several networks, as the paper's ensembles do.

    A run's newest evaluation by the protocol is taken; `inceptionctl evaluate RUN --protocol ...` makes one.
    """
    from inceptionctl.evaluate.ensemble import combine
    from inceptionctl.evaluate.evaluation import write_result
    from inceptionctl.evaluate.records import read_record

    files = [_record_file(source, protocol) for source in sources]
    records, names = [read_record(file) for file in files], [str(source) for source in sources]
    if class_ids and not submission:
        raise RecipeError("--class-ids needs --submission FILE", "it names the labels in that file")
    if submission:
        _submit(records, names, _numbers(weights), submission, class_ids)
        if not len(records[0].labels) and not output and not as_json:
            return
    _, result = combine(records, names, _numbers(weights))
    if output:
        write_result(result, output)
    if as_json:
        console.print_json(result)
    else:
        _print(result)
    if output:
        console.say(f"wrote {output}")


def _submit(records: list[Record], names: list[str], weights: list[float] | None, file: Path, class_ids: Path | None) -> None:
    from inceptionctl.evaluate.ensemble import mean_answer
    from inceptionctl.evaluate.submission import ids_of, numeric_order, submission
    from inceptionctl.run import write_atomically

    mean, _ = mean_answer(records, names, weights)
    order = numeric_order(records[0].images)
    write_atomically(file, submission(mean[order], ids_of(records[0].about["classes"], class_ids)))
    say_written(file, records[0].images)


def _record_file(source: Path, protocol: str) -> Path:
    """The Parquet file of an evaluation, or of a run's newest one by the protocol."""
    if source.is_dir():
        from inceptionctl.run import open_run

        found = sorted(open_run(source).evaluations.glob(f"step-????????_ema_{protocol}.parquet"))
        if not found:
            raise CheckpointError(
                f"{source} has no evaluation by {protocol} yet", f"inceptionctl evaluate {source} --protocol {protocol}"
            )
        return found[-1]
    return source.with_suffix(".parquet") if source.suffix == ".json" else source


def _numbers(weights: str | None) -> list[float] | None:
    if weights is None:
        return None
    try:
        return [float(word) for word in weights.split(",")]
    except ValueError:
        raise RecipeError(f"--weights {weights}: not numbers", "for example --weights 2,1,1") from None


def _print(result: dict[str, Any]) -> None:
    rows = [(member["name"], f"{member['weight']:.3g}", *_errors(member)) for member in result["members"]]
    rows.append(("ensemble", "", *_errors(result)))
    columns = ("member", "weight", "top-1 error %", "top-5 error %", "loss")
    console.print_table(f"Ensemble, {result['protocol']}, {result['num_images']} images", columns, rows, right=columns[1:])
    low, high = result["top1_error_interval"]
    console.out.print(f"top-1 error of the ensemble: 95% between {low:.2f} and {high:.2f}")
    pairs = [f"{one['members'][0] + 1} and {one['members'][1] + 1}: {one['percent']:.1f}%" for one in result["differ"]]
    console.out.print(f"all name the same class for {result['agree']:.1f}% of the images; two differ: {', '.join(pairs)}")


def _errors(figures: dict[str, Any]) -> tuple[str, str, str]:
    return f"{figures['top1_error']:.2f}", f"{figures['top5_error']:.2f}", f"{figures['loss']:.4f}"
