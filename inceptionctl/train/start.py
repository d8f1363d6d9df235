"""Where a training starts: which run directory, from which checkpoint. No torch: `inceptionctl train` asks before it starts ranks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from inceptionctl.errors import CheckpointError
from inceptionctl.recipe.load import dump_recipe, recipe_from_dict
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run, changed_keys, create_run, is_run, new_run_path, newest_run_of, write_atomically
from inceptionctl.train import checkpoint_files as files

RUNS = Path("runs")
ORIGIN = "origin"  # names the checkpoint of another run that this one goes on from


@dataclass(frozen=True)
class Start:
    """A run directory (made already), the checkpoint to go on from (None: from the beginning), and remarks for people."""

    run: Run
    checkpoint: Path | None = None
    finished: bool = False
    remarks: tuple[str, ...] = field(default=())


def decide_start(recipe: Recipe, output: Path | None, resume: str) -> Start:
    """Decide where a training starts, and make its run directory.

    `resume`: `auto` goes on in `output`, or else in the newest run under runs/ that computes the same; `never` makes a new run;
    anything else is a run directory to go on in, or a checkpoint to go on from in a new run.
    Raises CheckpointError when `output` is occupied by something else, or the checkpoint is damaged or does not fit the recipe.
    """
    if resume == "never":
        return Start(_new_run(recipe, output))
    if resume == "auto":
        existing = _existing(recipe, output)
        return _continue(existing, recipe) if existing else Start(_new_run(recipe, output))
    return _from_path(recipe, output, Path(resume))


def _existing(recipe: Recipe, output: Path | None) -> Run | None:
    if output is None:
        return newest_run_of(recipe, RUNS)
    return Run(output) if is_run(output) else None


def _new_run(recipe: Recipe, output: Path | None) -> Run:
    path = output or new_run_path(recipe, RUNS)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "a run" if is_run(path) else "something else"
        raise CheckpointError(
            f"output directory {path} is occupied by {what}",
            "choose another --output" + (", or go on in it with --resume auto" if is_run(path) else ""),
        )
    return create_run(path, recipe)


def _from_path(recipe: Recipe, output: Path | None, path: Path) -> Start:
    if is_run(path):
        if output is not None and output.resolve() != path.resolve():
            raise CheckpointError(
                f"--resume {path} goes on in that run, but --output {output} names another place",
                "leave --output out, or name one of the run's checkpoints in --resume to start a new run from it",
            )
        return _continue(Run(path), recipe)
    if output is not None and is_run(output) and files.list_checkpoints(output / "checkpoints"):
        return _continue(Run(output), recipe)  # the same command again, after it has saved something
    checkpoint = files.open_checkpoint(path)
    _check_same_network(recipe, checkpoint)
    run = Run(output) if output is not None and is_run(output) else _new_run(recipe, output)
    write_atomically(run.path / ORIGIN, f"{checkpoint.resolve()}\n")
    return Start(run, checkpoint, remarks=(f"starts from {checkpoint}",))


def _continue(run: Run, recipe: Recipe) -> Start:
    changed = changed_keys(recipe, run)
    if changed:
        raise CheckpointError(
            f"{run.path} was started with another recipe:\n  " + "\n  ".join(changed),
            "use its own recipe (`--resume auto` with RUN/recipe.yaml), or start a new run with another --output",
        )
    checkpoint, skipped = newest_of(run)
    remarks = [f"passed over a damaged checkpoint: {sentence}" for sentence in skipped]
    if checkpoint is None:
        return Start(run, None, remarks=tuple(remarks))
    if checkpoint.parent != run.checkpoints:  # killed before it saved anything: it begins again where it began
        return Start(run, checkpoint, remarks=(*remarks, f"starts from {checkpoint}"))
    _check_same_network(recipe, checkpoint)
    _keep_changed_recipe(run, recipe, files.step_of(checkpoint))
    finished = files.reached_end(files.read_progress(checkpoint), recipe)
    if finished:  # else whoever holds the run does it
        files.mend_pointers(run.checkpoints, checkpoint)
    return Start(run, checkpoint, finished, tuple(remarks))


def newest_of(run: Run) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, else the one of another run that it began from, and a sentence for each damaged one.

    Raises CheckpointError when there are checkpoints but none is whole.
    """
    checkpoint, skipped = files.newest_whole(run.checkpoints)
    origin = run.path / ORIGIN
    if checkpoint is None and origin.exists():
        checkpoint = files.open_checkpoint(Path(origin.read_text(encoding="utf-8").strip()))
    return checkpoint, skipped


def _check_same_network(recipe: Recipe, checkpoint: Path) -> None:
    kept = recipe_from_dict(files.read_progress(checkpoint).get("recipe", {}), f"{checkpoint}/progress.json")
    # Where the first weights came from has no meaning once there is a checkpoint.
    old, new = (section.model_dump(exclude={"init_from"}) for section in (kept.model, recipe.model))
    wrong = [f"model.{key}: {old[key]!r} in the checkpoint, {new[key]!r} in the recipe" for key in new if old[key] != new[key]]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} is of another network:\n  " + "\n  ".join(wrong), "use the recipe that it was trained with"
        )


def _keep_changed_recipe(run: Run, recipe: Recipe, step: int) -> None:
    """The directory always holds the recipe in force; an earlier one stays beside it."""
    text = dump_recipe(recipe)
    if run.recipe_file.read_text(encoding="utf-8") != text:
        until = run.path / f"recipe.until-step-{step:08d}.{time.strftime('%Y%m%dT%H%M%S')}.yaml"
        write_atomically(until, run.recipe_file.read_bytes())
        write_atomically(run.recipe_file, text)


def begins_anew(recipe: Recipe, output: Path | None, resume: str) -> bool:
    """Whether `decide_start` would begin from the recipe's own first weights, not from a checkpoint."""
    if resume != "auto":
        return resume == "never"
    existing = _existing(recipe, output)
    return existing is None or not (files.list_checkpoints(existing.checkpoints) or (existing.path / ORIGIN).exists())
