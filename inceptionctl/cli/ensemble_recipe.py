"""The part of `inceptionctl ensemble` that trains and evaluates what a recipe names."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inceptionctl import console
from inceptionctl.cli.options import ProtocolName
from inceptionctl.errors import CheckpointError, RecipeError, ResumeLater

if TYPE_CHECKING:
    from inceptionctl.evaluate.members import Member, State
    from inceptionctl.recipe import Ensemble


@dataclass(frozen=True)
class RanksHere:
    """What to train and evaluate on, as `train` and `evaluate` take it; both None for what they would choose."""

    gpus: int | None
    cpu_ranks: int | None

    @property
    def words(self) -> list[str]:
        """As options."""
        named = (("--gpus", self.gpus), ("--cpu-ranks", self.cpu_ranks))
        return [word for option, number in named if number is not None for word in (option, str(number))]


@dataclass(frozen=True)
class Made:
    """What there is to combine: a file of probabilities, a name and a weight for each member, and where the result belongs."""

    files: list[Path]
    names: list[str]
    weights: list[float]
    result: Path


def make(
    recipe: str,
    settings: Sequence[str],
    protocol: ProtocolName | None,
    checkpoint: str | None,
    output: Path | None,
    ranks: RanksHere,
    saved_only: bool,
    dry_run: bool,
    as_json: bool,
) -> Made | None:
    """Train and evaluate the members that are not yet, one after the other; None after printing what that would be."""
    from inceptionctl.evaluate.members import members_of
    from inceptionctl.recipe import is_ensemble, load_ensemble
    from inceptionctl.train.inheritance import inherit

    if not is_ensemble(recipe):
        raise RecipeError(
            f"recipe '{recipe}' is of one training: it has no `members`",
            f"`inceptionctl train {recipe}`, or name an ensemble's",
        )
    loaded = load_ensemble(recipe, settings)
    folder = output or Path("runs") / Path(recipe).stem
    if folder.suffix in (".json", ".parquet") or folder.is_file():
        raise RecipeError(f"--output {folder}: of a recipe it is the folder for members and result", "name a folder")
    chosen = protocol or loaded.protocol
    inherited = {name: inherit(member, folder / name) for name, member in loaded.members.items()}
    loaded = loaded.model_copy(update={"members": inherited})
    members = members_of(loaded, folder)
    states = [member.state(chosen, checkpoint) for member in members]
    if dry_run:
        _print_plan(recipe, members, states, chosen, as_json)
        return None
    missing = [member.name for member, state in zip(members, states, strict=True) if state.record is None]
    if missing and saved_only:
        raise CheckpointError(
            f"{', '.join(missing)} of {folder}: no evaluation by {chosen} yet", "leave --saved-only out to make what is missing"
        )
    if missing:
        _begin(loaded, members, states, folder, ranks)
    files = []
    for number, (member, state) in enumerate(zip(members, states, strict=True), start=1):
        taken = f"; {state.chosen}" if state.chosen else ""
        console.say(f"{member.name}, {number} of {len(members)}: {_in_words(state, chosen)}{taken}")
        files.append(state.record or _train_and_evaluate(member, state, chosen, checkpoint, ranks))
    return Made(files, [member.name for member in members], loaded.shares, folder / f"ensemble_{chosen}.json")


def run_step(name: str, words: Sequence[str]) -> None:
    """Do `inceptionctl WORDS` for a member; raise what its exit code says."""
    from inceptionctl.distributed.stage import run_stage

    code = run_stage(words)
    again = f"resume with: {shlex.join(['inceptionctl', *sys.argv[1:]])}"
    if code == ResumeLater.exit_code:
        raise ResumeLater(f"stopped in `{words[0]}` of {name}", again)
    if code:
        console.say(f"`{words[0]}` of {name} has ended with {code}; when that is mended, {again}")
        raise typer.Exit(code)


def _begin(loaded: Ensemble, members: Sequence[Member], states: Sequence[State], folder: Path, ranks: RanksHere) -> None:
    """Find what is wrong with any member before the first is trained for days, and write the recipes down."""
    from inceptionctl.distributed.local import LocalRanks, choose_ranks
    from inceptionctl.evaluate.members import check_same_images
    from inceptionctl.recipe import dump_recipe
    from inceptionctl.run import disk_errors, write_atomically
    from inceptionctl.stages.checks import check_inputs

    here = choose_ranks(ranks.gpus, ranks.cpu_ranks)
    if not ranks.words:  # `train` takes as many as can share the batch
        here = LocalRanks(here.devices[:1], here.on_cpu)
    for member, state in zip(members, states, strict=True):
        if not state.trained:
            check_inputs(member.recipe, here, f"members.{member.name}", begins=not state.step)
    check_same_images(members)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "ensemble.yaml", dump_recipe(loaded))
    for member in members:
        write_atomically(member.recipe_file, dump_recipe(member.recipe))


def _train_and_evaluate(member: Member, state: State, protocol: ProtocolName, checkpoint: str | None, ranks: RanksHere) -> Path:
    if not state.trained:
        run_step(member.name, ["train", str(member.recipe_file), "--output", str(member.run.path), *ranks.words])
        state = member.state(protocol, checkpoint)
    if state.trained and state.record is None:
        words = ["evaluate", str(member.run.path), "--protocol", protocol, "--data", str(member.recipe.data.root_path)]
        run_step(member.name, [*words, *(["--checkpoint", checkpoint] if checkpoint else []), *ranks.words])
        state = member.state(protocol, checkpoint)
    if state.record is None:
        raise CheckpointError(f"{member.run.path} was changed meanwhile", "the same command looks again")
    return state.record


def _in_words(state: State, protocol: str) -> str:
    if state.record:
        return f"trained and evaluated by {protocol}"
    if state.trained:
        return f"trained; to be evaluated by {protocol}"
    return f"to be trained from step {state.step} on" if state.step else "to be trained"


def _print_plan(recipe: str, members: Sequence[Member], states: Sequence[State], protocol: str, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
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
        for member, state in zip(members, states, strict=True)
    ]
    if as_json:
        console.print_json({"recipe": recipe, "protocol": protocol, "members": rows})
        return
    columns = ("member", "network", "seed", "epochs", "state")
    cells = [(*(row[key] for key in columns[:3]), f"{row['epochs']:g}", row["to_do"]) for row in rows]
    title = f"Ensemble of {recipe} in {members[0].run.path.parent}"
    console.print_table(title, columns, cells, right=("seed", "epochs"), whole=("member",))
