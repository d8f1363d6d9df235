"""`inceptionctl ensemble`: the mean prediction of several trained networks, or of the members of an ensemble recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inceptionctl import console
from inceptionctl.errors import CheckpointError, DataError, EnvironmentFault, RecipeError
from inceptionctl.stages.checks import check_inputs, ranks_of_each
from inceptionctl.stages.commands import command_words, run_step
from inceptionctl.stages.inference import write_submission

if TYPE_CHECKING:
    from inceptionctl.evaluate.members import EnsembleMember, MemberState
    from inceptionctl.evaluate.results import EnsembleResult
    from inceptionctl.protocols import ProtocolName
    from inceptionctl.recipe import Ensemble


@dataclass(frozen=True)
class EnsembleRequest:
    """The arguments and options of `inceptionctl ensemble`."""

    sources: Sequence[Path]
    """One recipe of an ensemble, by path or bundled name; or runs and evaluations."""
    settings: Sequence[str] = ()
    """As --set, of a recipe alone: "train.epochs=10"."""
    protocol: ProtocolName | None = None
    """The recipe's by default; of runs `single`."""
    checkpoint: str | None = None
    """`best`, `latest` or a step."""
    weights: Sequence[float] | None = None
    """Relative weight of each member's answer; the recipe's, or equal by default."""
    gpus: int | None = None
    cpu_ranks: int | None = None
    saved_only: bool = False
    """Train and evaluate nothing."""
    output: Path | None = None
    """The JSON file to write; of a recipe the folder of members and result."""
    dry_run: bool = False
    submission: Path | None = None
    class_ids: Path | None = None

    @property
    def ranks(self) -> dict[str, int | None]:
        """What to train and evaluate on, as options of `train` and `evaluate`."""
        return {"gpus": self.gpus, "cpu_ranks": self.cpu_ranks}

    @property
    def words(self) -> list[str]:
        """The command that this is."""
        options = {name: getattr(self, name) for name in ("protocol", "checkpoint", "saved_only", "output", "submission")}
        weights = None if self.weights is None else tuple(f"{weight:g}" for weight in self.weights)
        options |= {**self.ranks, "weights": weights, "class_ids": self.class_ids}
        return command_words("ensemble", *self.sources, settings=self.settings, options=options)


@dataclass(frozen=True)
class Planned:
    """Of a dry run: how far each member is."""

    protocol: str
    members: list[console.JsonObject]
    recipe: str | None = None
    """None where runs were named."""

    def to_json(self) -> Any:
        """What `--json` prints."""
        return (
            self.members if self.recipe is None else {"recipe": self.recipe, "protocol": self.protocol, "members": self.members}
        )


@dataclass(frozen=True)
class Combined:
    """The mean prediction, and where it was written."""

    members: Sequence[str]
    images: Sequence[str]
    """Names of the images."""
    result: EnsembleResult | None
    """Errors, weights and disagreement of the members (`combine` of evaluate/); None for a submission of images without labels."""
    output: Path | None
    submission: Path | None

    def to_json(self) -> Any:
        """What `--json` prints."""
        told = {"submission": str(self.submission), "images": len(self.images), "members": list(self.members)}
        return told if self.result is None else self.result


def ensemble(request: EnsembleRequest) -> Combined | Planned:
    """Average the class probabilities of several networks; a dry run only reports what exists.

    The members of a recipe are trained and evaluated first, one after the other, as far as that is not done. A run contributes the
    evaluation of its best checkpoint by the protocol, and is evaluated if there is none. Raises RecipeError for members that do not fit,
    CheckpointError for what is missing under `saved_only`, ResumeLater after a signal, and RanksEndedError when a step failed.
    """
    from inceptionctl.distributed.signals import stoppable

    recipe = _recipe_of(request.sources)
    _refuse_misfits(request, recipe)
    with stoppable("between two steps of the ensemble: nothing is lost"):
        if recipe:
            return _of_recipe(recipe, request)
        sources = _runs_and_evaluations(request.sources)
        if request.dry_run:
            found = [(source, _saved(source, request)) for source in sources]
            rows = [{"member": str(source), "evaluation": file and str(file)} for source, file in found]
            return Planned(request.protocol or "single", rows)
        files = [_record_file(source, request) for source in sources]
        return _combine(request, files, [str(source) for source in sources], request.weights, request.output)


def _refuse_misfits(request: EnsembleRequest, recipe: str | None) -> None:
    from inceptionctl.distributed.world import world_from_environment

    if request.class_ids and not request.submission:
        raise RecipeError("--class-ids needs --submission FILE", "it names the labels in that file")
    if request.settings and recipe is None:
        raise RecipeError("--set applies to a recipe, but runs were given", "leave --set out, or name an ensemble recipe")
    if world_from_environment() is not None:
        raise EnvironmentFault(
            "`inceptionctl ensemble` was started as one of several ranks; it starts the ranks of its members itself",
            "start a single process; docs/slurm.md explains how to train the members as Slurm jobs",
        )
    if request.gpus is not None and request.cpu_ranks is not None:
        raise RecipeError("--gpus and --cpu-ranks exclude each other", "give one of the two")


def _recipe_of(sources: Sequence[Path]) -> str | None:
    """The one recipe among the sources; None where they are runs and evaluations."""
    found = [source for source in sources if source.suffix in (".yaml", ".yml")]
    if len(sources) == 1 and not found and not sources[0].exists():
        from inceptionctl.recipe import bundled_ensembles, bundled_recipes

        # Those of single trainings too: reading them gives the error.
        found = [source for source in sources if str(source) in {**bundled_ensembles(), **bundled_recipes()}]
    if found and len(sources) > 1:
        raise RecipeError(f"{found[0]} is a recipe, but other sources were given too", "give one recipe, or runs")
    return str(found[0]) if found else None


def _runs_and_evaluations(sources: Sequence[Path]) -> list[Path]:
    """Runs by their names too. Raises DataError for what is not there."""
    from inceptionctl.run import find_run

    found = [find_run(source) for source in sources]
    for source in found:
        if not source.exists():
            hint = "name runs, or files that `inceptionctl evaluate` has written; `inceptionctl runs list`"
            raise DataError(f"no run or evaluation {source}", hint)
    return found


def _saved(source: Path, request: EnsembleRequest) -> Path | None:
    """The Parquet file of an evaluation, or of that of a run's checkpoint by the protocol; None where a run has none."""
    if not source.is_dir():
        return source.with_suffix(".parquet") if source.suffix == ".json" else source
    from inceptionctl.run import open_run
    from inceptionctl.train.checkpoint_choice import choose_checkpoint

    run, chosen = open_run(source), choose_checkpoint(source, request.checkpoint)
    # Of a run whose checkpoints were deleted the newest evaluation is all that there is.
    name = "step-????????" if chosen.which == "named" else chosen.checkpoint.name
    found = sorted(run.evaluations.glob(f"{name}_ema_{request.protocol or 'single'}.parquet"))
    return found[-1] if found else None


def _record_file(source: Path, request: EnsembleRequest) -> Path:
    file, protocol = _saved(source, request), request.protocol or "single"
    evaluate = {"protocol": protocol, "checkpoint": request.checkpoint}
    if file is None and not request.saved_only:
        run_step(str(source), command_words("evaluate", source, options={**evaluate, **request.ranks}), request.words)
        file = _saved(source, request)
    if file is None:
        command = shlex.join(["inceptionctl", *command_words("evaluate", source, options=evaluate)])
        raise CheckpointError(f"{source} has no evaluation by {protocol} yet", command)
    if source.is_dir():
        from inceptionctl.train.checkpoint_choice import choose_checkpoint

        console.say(f"{source}: {choose_checkpoint(source, request.checkpoint).in_words()}")
    return file


def _of_recipe(recipe: str, request: EnsembleRequest) -> Combined | Planned:
    """Train and evaluate the members that are not yet, one after the other, and combine them; of a dry run what would be done."""
    from inceptionctl.evaluate.members import members_of

    loaded, folder = _load(recipe, request)
    protocol = request.protocol or loaded.protocol
    members = [(member, member.state(protocol, request.checkpoint)) for member in members_of(loaded, folder)]
    if request.dry_run:
        return Planned(protocol, [_row(member, state, protocol) for member, state in members], recipe)
    missing = [member.name for member, state in members if state.record is None]
    if missing and request.saved_only:
        raise CheckpointError(
            f"{', '.join(missing)} of {folder}: no evaluation by {protocol} yet",
            "leave --saved-only out to train and evaluate what is missing",
        )
    if missing:
        _prepare(loaded, members, folder, request)
    files = []
    for number, (member, state) in enumerate(members, start=1):
        chosen = f"; {state.chosen}" if state.chosen else ""
        console.say(f"{member.name}, {number} of {len(members)}: {_in_words(state, protocol)}{chosen}")
        files.append(state.record or _train_and_evaluate(member, state, protocol, request))
    names = [member.name for member, _ in members]
    return _combine(request, files, names, request.weights or loaded.shares, folder / f"ensemble_{protocol}.json")


def _row(member: EnsembleMember, state: MemberState, protocol: ProtocolName) -> console.JsonObject:
    return {
        "member": member.name,
        "network": member.recipe.model.name,
        "seed": member.recipe.train.seed,
        "epochs": member.recipe.train.epochs,
        "run": str(member.run.path),
        "step": state.step,
        "trained": state.trained,
        "evaluation": state.record and str(state.record),
        "chosen": state.chosen,
        "to_do": _in_words(state, protocol),
    }


def _load(recipe: str, request: EnsembleRequest) -> tuple[Ensemble, Path]:
    """The recipe, each member with what its first weights expect, and the folder of runs and result."""
    from inceptionctl.recipe import is_ensemble, load_ensemble
    from inceptionctl.train.inheritance import inherit

    if not is_ensemble(recipe):
        raise RecipeError(
            f"recipe '{recipe}' is a single training: it has no `members`",
            f"`inceptionctl train {recipe}`, or name an ensemble recipe",
        )
    loaded = load_ensemble(recipe, request.settings)
    folder = request.output or Path("runs") / Path(recipe).stem
    if folder.suffix in (".json", ".parquet") or folder.is_file():
        raise RecipeError(f"--output {folder}: for a recipe this is a folder, of its runs and results", "name a folder")
    inherited = {name: inherit(member, folder / name) for name, member in loaded.members.items()}
    return loaded.model_copy(update={"members": inherited}), folder


def _prepare(
    loaded: Ensemble, members: Sequence[tuple[EnsembleMember, MemberState]], folder: Path, request: EnsembleRequest
) -> None:
    """Raise the problems of every member before the first is trained for days, and save their recipes."""
    from inceptionctl.evaluate.members import check_same_images
    from inceptionctl.recipe import dump_recipe
    from inceptionctl.storage import disk_errors, write_atomically

    here = ranks_of_each(request.gpus, request.cpu_ranks)
    for member, state in members:
        if not state.trained:
            check_inputs(member.recipe, here, f"members.{member.name}", begins=not state.step)
    check_same_images([member for member, _ in members])
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "ensemble.yaml", dump_recipe(loaded))
    for member, _ in members:
        write_atomically(member.recipe_file, dump_recipe(member.recipe))


def _train_and_evaluate(member: EnsembleMember, state: MemberState, protocol: ProtocolName, request: EnsembleRequest) -> Path:
    run, checkpoint = member.run.path, request.checkpoint
    if not state.trained:
        run_step(
            member.name, command_words("train", member.recipe_file, options={"output": run, **request.ranks}), request.words
        )
        state = member.state(protocol, checkpoint)
    if state.trained and state.record is None:
        options = {"protocol": protocol, "data": member.recipe.data.root_path, "checkpoint": checkpoint, **request.ranks}
        run_step(member.name, command_words("evaluate", run, options=options), request.words)
        state = member.state(protocol, checkpoint)
    if state.record is None:
        raise CheckpointError(f"{run} was changed in the meantime", "rerun the same command")
    return state.record


def _in_words(state: MemberState, protocol: str) -> str:
    if state.record:
        return f"trained and evaluated by {protocol}"
    if state.trained:
        return f"trained; to be evaluated by {protocol}"
    return f"to be resumed at step {state.step}" if state.step else "to be trained"


def _combine(
    request: EnsembleRequest,
    files: Sequence[Path],
    names: Sequence[str],
    weights: Sequence[float] | None,
    output: Path | None,
) -> Combined:
    """Combine a file of probabilities, a name and a weight for each member; write the result to `output`."""
    from inceptionctl.evaluate.members import combine, mean_answer, write_ensemble
    from inceptionctl.evaluate.records import read_record
    from inceptionctl.evaluate.unlabelled import ids_of, numeric_order

    if output and output.is_dir():
        raise RecipeError(f"--output {output} is a folder", "name a JSON file, for example ensemble.json in it")
    records = [read_record(file) for file in files]
    if request.submission:
        mean, _ = mean_answer(records, names, weights)
        ids = ids_of(records[0].about["classes"], request.class_ids)
        write_submission(request.submission, records[0].images, mean[numeric_order(records[0].images)], ids)
        if not len(records[0].labels) and not output:
            return Combined(names, records[0].images, None, None, request.submission)
    probabilities, result = combine(records, names, weights)
    if output:
        write_ensemble(output, result, records[0], probabilities)
    return Combined(names, records[0].images, result, output, request.submission)
