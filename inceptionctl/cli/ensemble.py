"""`inceptionctl ensemble`: the mean answer of several trained networks, or of those that an ensemble's recipe names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli import ensemble_recipe
from inceptionctl.cli.options import CheckpointOption, ClassIdsOption, Json, ProtocolName, Settings, runs_named
from inceptionctl.cli.predict import say_written
from inceptionctl.errors import CheckpointError, EnvironmentFault, RecipeError
from inceptionctl.stages.sources import refuse_missing_answers
from inceptionctl.words import counted, has_top5

if TYPE_CHECKING:
    from inceptionctl.evaluate.records import Record
    from inceptionctl.evaluate.results import EnsembleResult, MemberFigures


def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECIPE | RUN|EVALUATION...",
            help="A recipe of an ensemble; or runs, also by name, and .json or .parquet files of `evaluate` or `predict --submission`.",
        ),
    ],
    settings: Settings = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="How members are evaluated: the recipe's; of runs `single`.")
    ] = None,
    checkpoint: CheckpointOption = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,...", help="Weight of each member; the recipe's, or equal by default.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of this machine to train and evaluate on, as in `train` and `evaluate`.")
    ] = None,
    cpu_ranks: Annotated[int | None, typer.Option(min=1, help="Train and evaluate on the CPU with this many ranks.")] = None,
    saved_only: Annotated[
        bool, typer.Option("--saved-only", help="Train and evaluate nothing: exit code 5 where an evaluation is missing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file to write, a .parquet beside it; of a recipe the folder for all, runs/NAME by default."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained and evaluated, and stop.")] = False,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the ILSVRC test server's file of the ensemble, as `predict` does."),
    ] = None,
    class_ids: ClassIdsOption = None,
    as_json: Json = False,
) -> None:
    """Average the class probabilities of several networks, as the paper's ensembles do.

    A recipe's members are trained one after the other, evaluated and combined; stopped at any place, the same command goes on with what is
    missing. Of a run the evaluation of its best checkpoint by the protocol is taken; where there is none, it is evaluated.
    """
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment

    shares = _numbers(weights)
    if class_ids and not submission:
        raise RecipeError("--class-ids needs --submission FILE", "it names the labels in that file")
    recipe = _recipe_of(sources)
    if settings and recipe is None:
        raise RecipeError("--set changes a recipe, and runs were named", "leave --set out, or name an ensemble's recipe")
    if world_from_environment() is not None:
        raise EnvironmentFault(
            "`inceptionctl ensemble` was started as one of several ranks; it starts those of its members itself",
            "start it once; docs/slurm.md tells how members become jobs of Slurm",
        )
    if gpus is not None and cpu_ranks is not None:
        raise RecipeError("--gpus and --cpu-ranks exclude each other", "give one of the two")
    if recipe is None:
        sources = runs_named(sources)
        refuse_missing_answers(sources)
    ranks = ensemble_recipe.RanksHere(gpus, cpu_ranks)
    with stoppable("between two steps of the ensemble: nothing is lost"):
        if recipe:
            made = ensemble_recipe.make(
                recipe, settings or (), protocol, checkpoint, output, ranks, saved_only, dry_run, as_json
            )
            if made is None:
                return
            files, names, shares, output = made.files, made.names, shares or made.weights, made.result
        else:
            protocol = protocol or "single"
            if dry_run:
                _print_missing(sources, protocol, checkpoint, as_json)
                return
            files = [_record_file(source, protocol, checkpoint, ranks, saved_only) for source in sources]
            names = [str(source) for source in sources]
        _combine(files, names, shares, output, submission, class_ids, as_json)


def _recipe_of(sources: Sequence[Path]) -> str | None:
    """The one recipe among the arguments; None where they are runs and evaluations."""
    found = [source for source in sources if source.suffix in (".yaml", ".yml")]
    if len(sources) == 1 and not found and not sources[0].exists():
        from inceptionctl.recipe import bundled_ensembles, bundled_recipes

        # One of a single training too: what it is will be said where it is read.
        found = [source for source in sources if str(source) in {**bundled_ensembles(), **bundled_recipes()}]
    if found and len(sources) > 1:
        raise RecipeError(f"{found[0]} is a recipe, and other things are named beside it", "name one recipe, or runs")
    return str(found[0]) if found else None


def _saved(source: Path, protocol: str, checkpoint: str | None) -> Path | None:
    """The Parquet file of an evaluation, or of that of a run's checkpoint by the protocol; None where a run has none."""
    if not source.is_dir():
        return source.with_suffix(".parquet") if source.suffix == ".json" else source
    from inceptionctl.run import open_run
    from inceptionctl.train.checkpoint_choice import choose_checkpoint

    run, chosen = open_run(source), choose_checkpoint(source, checkpoint)
    # Of a run whose checkpoints were deleted the newest evaluation is all that there is.
    name = "step-????????" if chosen.which == "named" else chosen.checkpoint.name
    found = sorted(run.evaluations.glob(f"{name}_ema_{protocol}.parquet"))
    return found[-1] if found else None


def _record_file(
    source: Path, protocol: str, checkpoint: str | None, ranks: ensemble_recipe.RanksHere, saved_only: bool
) -> Path:
    file = _saved(source, protocol, checkpoint)
    words = ["evaluate", str(source), "--protocol", protocol, *(["--checkpoint", checkpoint] if checkpoint else [])]
    if file is None and not saved_only:
        ensemble_recipe.run_step(str(source), [*words, *ranks.words])
        file = _saved(source, protocol, checkpoint)
    if file is None:
        raise CheckpointError(f"{source} has no evaluation by {protocol} yet", shlex.join(["inceptionctl", *words]))
    if source.is_dir():
        from inceptionctl.train.checkpoint_choice import choose_checkpoint

        console.say(f"{source}: {choose_checkpoint(source, checkpoint).in_words()}")
    return file


def _print_missing(sources: Sequence[Path], protocol: str, checkpoint: str | None, as_json: bool) -> None:
    found = [(source, _saved(source, protocol, checkpoint)) for source in sources]
    rows = [{"member": str(source), "evaluation": file and str(file)} for source, file in found]
    if as_json:
        console.print_json(rows)
        return
    cells = [(row["member"], row["evaluation"] or f"by {protocol}: to be made") for row in rows]
    console.print_table("What would be combined", ("member", "evaluation"), cells)


def _combine(
    files: Sequence[Path],
    names: Sequence[str],
    weights: list[float] | None,
    output: Path | None,
    submission: Path | None,
    class_ids: Path | None,
    as_json: bool,
) -> None:
    from inceptionctl.evaluate.ensemble import combine, write_ensemble
    from inceptionctl.evaluate.records import read_record

    if output and output.is_dir():
        raise RecipeError(f"--output {output} is a folder", "name a JSON file, for example ensemble.json in it")
    records = [read_record(file) for file in files]
    if submission:
        _submit(records, names, weights, submission, class_ids)
        if not len(records[0].labels) and not output:
            if as_json:
                console.print_json({"submission": str(submission), "images": len(records[0].images), "members": list(names)})
            return
    probabilities, result = combine(records, names, weights)
    if output:
        write_ensemble(output, result, records[0], probabilities)
    if as_json:
        console.print_json(result)
    else:
        _print(result)
    if output:
        console.say(f"wrote {output} and {output.with_suffix('.parquet').name}")


def _submit(
    records: Sequence[Record], names: Sequence[str], weights: list[float] | None, file: Path, class_ids: Path | None
) -> None:
    from inceptionctl.evaluate.ensemble import mean_answer
    from inceptionctl.evaluate.submission import ids_of, numeric_order, submission
    from inceptionctl.run import write_atomically

    mean, _ = mean_answer(records, names, weights)
    order = numeric_order(records[0].images)
    write_atomically(file, submission(mean[order], ids_of(records[0].about["classes"], class_ids)))
    say_written(file, records[0].images)


def _numbers(weights: str | None) -> list[float] | None:
    if weights is None:
        return None
    try:
        return [float(word) for word in weights.split(",")]
    except ValueError:
        raise RecipeError(f"--weights {weights}: not numbers", "for example --weights 2,1,1") from None


def _print(result: EnsembleResult) -> None:
    top5 = has_top5(len(result["classes"]))
    rows = [(member["name"], f"{member['weight']:.3g}", *_errors(member, top5)) for member in result["members"]]
    rows.append(("ensemble", "", *_errors(result, top5)))
    columns = ("member", "weight", "top-1 error %", "accuracy %", *(["top-5 error %"] if top5 else []), "loss", "ms an image")
    title = f"Ensemble, {result['protocol']}, {counted(result['num_images'], 'image')}"
    console.print_table(title, columns, rows, right=columns[1:])
    low, high = result["top1_error_interval"]
    console.out.print(f"top-1 error of the ensemble: 95% between {low:.2f} and {high:.2f}")
    pairs = [f"{one['members'][0] + 1} and {one['members'][1] + 1}: {one['percent']:.1f}%" for one in result["differ"]]
    console.out.print(f"all name the same class for {result['agree']:.1f}% of the images; two differ: {', '.join(pairs)}")


def _errors(figures: EnsembleResult | MemberFigures, top5: bool) -> tuple[str, ...]:
    taken, error = figures["seconds_per_image"], figures["top1_error"]
    errors = f"{error:.2f}", f"{100.0 - error:.2f}", *([f"{figures['top5_error']:.2f}"] if top5 else [])
    return *errors, f"{figures['loss']:.4f}", "" if taken is None else f"{1000.0 * taken:,.1f}"
