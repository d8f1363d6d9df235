"""Which checkpoint is meant where a run is named: the best, the newest, or that of a step; and how they compare. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.run import Run, is_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.words import error_and_accuracy

Which = Literal["best", "latest", "step", "named"]
IN_WORDS: dict[Which, str] = {
    "best": "the best checkpoint",
    "latest": "the newest checkpoint",
    "step": "a checkpoint by its step",
    "named": "",
}


@dataclass(frozen=True)
class Validated:
    """A checkpoint of a run with its validation while training; None where it had none or nothing is known of it."""

    step: int
    epoch: float | None = None
    top1_error: float | None = None
    """Percent."""
    loss: float | None = None
    subset: str | None = None
    """Of the validation images."""

    def in_words(self) -> str:
        """Step, epoch, error and accuracy."""
        epoch = "" if self.epoch is None else f" (epoch {self.epoch:.2f})"
        return f"step {self.step}{epoch}, {self._error()}"

    def _error(self) -> str:
        if self.top1_error is None:
            return "not validated"
        of = "" if self.subset in (None, "all") else f" on {self.subset} images"
        return f"top-1 error {error_and_accuracy(self.top1_error)}{of}"


@dataclass(frozen=True)
class Choice:
    """The checkpoint that is taken, why, and of a run the two that people compare."""

    checkpoint: Path
    """Not verified yet."""
    which: Which
    best: Validated | None = None
    """None where the run keeps none."""
    latest: Validated | None = None
    taken: Validated | None = None
    by: str = "top1_error"
    """The figure that the best has the lowest of."""

    def in_words(self) -> str:
        """One line; empty where the user named the checkpoint itself."""
        if self.taken is None or self.latest is None:
            return IN_WORDS[self.which]
        by = f", by {self.by.replace('_', ' ')}" if self.which == "best" and self.by != "top1_error" else ""
        told = f"{IN_WORDS[self.which]}{by}: {self.taken.in_words()}"
        best, latest = self.best and self.best.step, self.latest.step
        if best == latest == self.taken.step:
            return f"{told}; it is the {'newest' if self.which == 'best' else 'best'} too" if self.which != "step" else told
        others = [f"the best is {self.best.in_words()}"] if self.best and best != self.taken.step else []
        others += [f"the newest is {self.latest.in_words()}"] if latest != self.taken.step else []
        return "; ".join([told, *others, *([] if self.best else ["no best one is kept"])])

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        known = {"best": self.best, "latest": self.latest}
        return {"which": self.which, "best_by": self.by} | {key: value and asdict(value) for key, value in known.items()}


def choose_checkpoint(path: Path, wish: str | None = None) -> Choice:
    """Choose a checkpoint of a run: `best`, `latest`, or that of a step, by its number or its folder; by default what `evaluate.checkpoint`
    of its recipe says, the best only where one is kept.

    A path that is no run is the checkpoint itself. Raises CheckpointError where there is none such, RecipeError for another wish.
    """
    if not is_run(path):
        if wish not in (None, "latest"):
            raise CheckpointError(
                f"--checkpoint {wish} needs a run directory, and {path} is none", "name the run instead of a checkpoint"
            )
        return Choice(path, "named")
    found = files.list_checkpoints(path / "checkpoints")
    if not found:
        return Choice(path, "named")  # whoever opens it says that there is none
    best = files.pointed(path / "checkpoints", "best")
    if wish == "best" and best is None:
        raise CheckpointError(f"{path} has no best checkpoint: none was validated and kept", "use --checkpoint latest")
    wish = wish or _wish_of(Run(path))
    if wish in ("best", "latest"):
        which: Which = "best" if best and wish != "latest" else "latest"
        return _with_figures(path, best if best and which == "best" else found[-1], which, best, found[-1])
    return _with_figures(path, _of_step(path, wish, found), "step", best, found[-1])


def _wish_of(run: Run) -> Literal["best", "latest"]:
    """What its recipe says; the best for one that cannot be read, which whoever opens the checkpoint says."""
    with contextlib.suppress(RecipeError):
        return run.recipe().evaluate.checkpoint
    return "best"


def _of_step(path: Path, wish: str, found: list[Path]) -> Path:
    name = Path(wish).name
    step = (
        int(wish)
        if wish.isascii() and wish.isdigit()
        else files.step_of(Path(name))
        if files.STEP_FOLDER.fullmatch(name)
        else None
    )
    if step is None:
        raise RecipeError(f"--checkpoint {wish} is neither best, latest nor a step", "for example --checkpoint 12510")
    for checkpoint in found:
        if files.step_of(checkpoint) == step:
            return checkpoint
    kept = ", ".join(str(files.step_of(checkpoint)) for checkpoint in found)
    raise CheckpointError(f"{path} keeps no checkpoint of step {step}", f"it keeps those of: {kept}")


def _with_figures(path: Path, taken: Path, which: Which, best: Path | None, latest: Path) -> Choice:
    rows = {row["step"]: row for row in Run(path).metrics() if row.get("kind") == "evaluate"}
    progress: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # a damaged one is refused where it is opened
        progress = files.read_progress(latest)
    told = progress.get("best")
    if isinstance(told, dict) and isinstance(told.get("step"), int):
        rows.setdefault(told["step"], told)
    kept = progress.get("recipe")
    section = kept.get("checkpoint") if isinstance(kept, dict) else None
    by = section.get("best_by") if isinstance(section, dict) else None
    return Choice(
        taken,
        which,
        _validated(best, rows) if best else None,
        _validated(latest, rows),
        _validated(taken, rows),
        by if isinstance(by, str) else "top1_error",
    )


def _validated(checkpoint: Path, rows: Mapping[int, Mapping[str, Any]]) -> Validated:
    step = files.step_of(checkpoint)
    row = rows.get(step)
    if row is None:
        return Validated(step)
    epoch, error, loss = (_number(row.get(key)) for key in ("epoch", "top1_error", "loss"))
    return Validated(step, epoch, error, loss, str(row.get("subset", "all")))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None
