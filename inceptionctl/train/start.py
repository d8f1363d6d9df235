"""Where a training starts: which run directory, from which checkpoint. No torch: `inceptionctl train` asks before it starts ranks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inceptionctl.data.imageset import ImageSet
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.recipe.load import dump_recipe, recipe_from_dict
from inceptionctl.recipe.schema import Recipe, differing, flatten
from inceptionctl.run import Run, changed_keys, create_run, is_free, is_run, new_run_path, newest_run_of
from inceptionctl.storage import write_atomically
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.batch import total_steps
from inceptionctl.train.data_list import check_same_images

RUNS = Path("runs")
ORIGIN = "origin"  # names the checkpoint of another run that this one starts from


@dataclass(frozen=True)
class Start:
    """A run directory (made already), the checkpoint to resume from (None: from the beginning), and remarks for people.

    `recipe_before` is the recipe of the last start in that directory; None for a new run.
    """

    run: Run
    checkpoint: Path | None = None
    finished: bool = False
    remarks: tuple[str, ...] = field(default=())
    recipe_before: Recipe | None = None

    @property
    def is_new(self) -> bool:
        """Whether the run directory was made for this start."""
        return self.recipe_before is None


def decide_start(recipe: Recipe, output: Path | None, resume: str) -> Start:
    """Decide where a training starts, and make its run directory if that is a new one. In one that is there nothing is changed.

    `resume`: `auto` resumes `output`, or else the newest run under runs/ that computes the same; `never` makes a new run;
    anything else is a run directory to resume, or a checkpoint to start a new run from.
    Raises CheckpointError when `output` is occupied by something else, or the checkpoint is damaged or does not fit the recipe.
    """
    if resume == "never":
        return Start(_new_run(recipe, output))
    if resume == "auto":
        existing = _existing(recipe, output)
        return _continue(existing, recipe) if existing else Start(_new_run(recipe, output))
    return _from_path(recipe, output, Path(resume))


def check_start(start: Start, recipe: Recipe, train_set: ImageSet, val_set: ImageSet) -> list[str]:
    """Remarks on a start on these images.

    Raises DataError when the images are not those that the checkpoint was trained on, and RecipeError when the recipe ends before the
    step that the run is at.
    """
    if start.checkpoint is None:
        return []
    remarks = check_same_images(start.run, start.checkpoint, train_set, val_set, recipe.evaluate.subset)
    progress, length = files.read_progress(start.checkpoint), recipe.train
    total = total_steps(length.epochs, len(train_set), length.global_batch_size, length.max_steps)
    ours = start.checkpoint.parent == start.run.checkpoints
    if ours and progress["step"] >= total and not progress.get("evaluation_due"):
        raise RecipeError(
            f"the recipe ends at step {total}, and {start.run.path} has made {progress['step']} already",
            f"raise train.epochs ({length.epochs:g}) or train.max_steps, or take the run as it is:"
            f" inceptionctl evaluate {start.run.path}",
        )
    return remarks


def _existing(recipe: Recipe, output: Path | None) -> Run | None:
    if output is None:
        return newest_run_of(recipe, RUNS)
    return Run(output) if is_run(output) else None


def _new_run(recipe: Recipe, output: Path | None) -> Run:
    path = output or new_run_path(recipe, RUNS)
    if not is_free(path):
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
                f"--resume {path} resumes that run, but --output {output} names another place",
                "leave --output out, or name one of the run's checkpoints in --resume to start a new run from it",
            )
        return _continue(Run(path), recipe)
    if output is not None and is_run(output) and files.list_checkpoints(output / "checkpoints"):
        return _continue(Run(output), recipe)  # the same command again, after it has saved something
    checkpoint = files.open_checkpoint(path)
    _check_same_network(recipe, checkpoint)
    remarks = (f"starts from {checkpoint}",)
    if output is not None and is_run(output):
        run = Run(output)
        return Start(run, checkpoint, False, remarks, run.recipe())
    run = _new_run(recipe, output)
    write_atomically(run.path / ORIGIN, f"{checkpoint.resolve()}\n")
    return Start(run, checkpoint, remarks=remarks)


def _continue(run: Run, recipe: Recipe) -> Start:
    changed = changed_keys(recipe, run)
    if changed:
        raise CheckpointError(
            f"{run.path} was started with another recipe:\n  " + "\n  ".join(changed),
            "use its own recipe (`--resume auto` with RUN/recipe.yaml), or start a new run with another --output",
        )
    before = run.recipe()
    checkpoint, skipped = newest_of(run)
    remarks = [f"passed over a damaged checkpoint: {sentence}" for sentence in skipped]
    if checkpoint is None:
        return Start(run, None, False, tuple(remarks), before)
    if checkpoint.parent != run.checkpoints:  # killed before it saved anything: it begins again where it began
        return Start(run, checkpoint, False, (*remarks, f"starts from {checkpoint}"), before)
    _check_same_network(recipe, checkpoint)
    finished = files.reached_end(files.read_progress(checkpoint), recipe)
    if finished:  # else whoever holds the run does it
        files.mend_pointers(run.checkpoints, checkpoint)
    return Start(run, checkpoint, finished, tuple(remarks), before)


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
    wrong = [f"model.{key}: {old[key]!r} in the checkpoint, {new[key]!r} in the recipe" for key in differing(old, new)]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} is of another network:\n  " + "\n  ".join(wrong), "use the recipe that it was trained with"
        )


def keeps_recipe(run: Run, recipe: Recipe) -> bool:
    """Whether a run directory holds this very recipe."""
    return run.recipe_file.is_file() and run.recipe_file.read_text(encoding="utf-8") == dump_recipe(recipe)


def changes_of(start: Start, recipe: Recipe) -> list[str]:
    """What a recipe says otherwise than that of the last start, as `key: then -> now`."""
    if start.recipe_before is None:
        return []
    then, now = (flatten(each.resolved()) for each in (start.recipe_before, recipe))
    keys = [key for key in dict.fromkeys((*then, *now)) if then.get(key) != now.get(key)]
    return [f"{key}: {_in_words(then.get(key))} -> {_in_words(now.get(key))}" for key in keys]


def _in_words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def keep_start(start: Start, recipe: Recipe) -> None:
    """The directory always holds the recipe in force, and where it began; an earlier recipe stays beside it.

    For a start that has passed every check: a command that is refused must not change what later ones read.
    """
    run, step = start.run, files.step_of(start.checkpoint) if start.checkpoint else 0
    if start.checkpoint and start.checkpoint.parent != run.checkpoints:
        write_atomically(run.path / ORIGIN, f"{start.checkpoint.resolve()}\n")
    text = dump_recipe(recipe)
    if not keeps_recipe(run, recipe):
        until = run.path / f"recipe.until-step-{step:08d}.{time.strftime('%Y%m%dT%H%M%S')}.yaml"
        write_atomically(until, run.recipe_file.read_bytes())
        write_atomically(run.recipe_file, text)


def begins_anew(recipe: Recipe, output: Path | None, resume: str) -> bool:
    """Whether `decide_start` would begin from the recipe's own first weights, not from a checkpoint."""
    if resume != "auto":
        return resume == "never"
    existing = _existing(recipe, output)
    return existing is None or not (files.list_checkpoints(existing.checkpoints) or (existing.path / ORIGIN).exists())
