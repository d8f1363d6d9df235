"""How far the members of an ensemble are: what is trained to its end, and what is evaluated. Reads only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.protocols import Name, make_protocol
from inceptionctl.evaluate.records import names_below_root
from inceptionctl.recipe import Ensemble, Recipe
from inceptionctl.run import Run, changed_keys, is_run, visible
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint_choice import choose_checkpoint


@dataclass(frozen=True)
class State:
    """How far a member is."""

    step: int
    """Optimizer steps of the newest whole checkpoint; 0 where there is none."""
    trained: bool
    """Whether that is the end of the training that the recipe says."""
    record: Path | None
    """Its averaged weights' probabilities of the recipe's images, where they are trained and evaluated by the protocol."""
    chosen: str = field(default="", compare=False)
    """Which checkpoint is evaluated once it is trained, in words."""


@dataclass(frozen=True)
class Member:
    """One training of an ensemble, and the run directory that is or will be its."""

    name: str
    recipe: Recipe
    run: Run

    @property
    def recipe_file(self) -> Path:
        """The complete recipe, beside the run directory, since that may not exist yet."""
        return self.run.path.with_name(f"{self.name}.yaml")

    def state(self, protocol: Name, which: str | None = None) -> State:
        """Look into the run directory; `which` checkpoint is evaluated, `load_trained` tells.

        Raises CheckpointError when there are checkpoints but none is whole, or none such.
        """
        checkpoint = files.newest_whole(self.run.checkpoints)[0] if is_run(self.run.path) else None
        if checkpoint is None:
            return State(0, False, None)
        step, trained = files.step_of(checkpoint), files.reached_end(files.read_progress(checkpoint), self.recipe)
        if not trained:
            return State(step, trained, None)
        choice = choose_checkpoint(self.run.path, which)
        return State(step, trained, self._record(files.step_of(choice.checkpoint), protocol), choice.in_words())

    def _record(self, step: int, protocol: Name) -> Path | None:
        """None for an evaluation of another data root, of a subset, or by other scales, too."""
        file = self.run.evaluations / f"step-{step:08d}_ema_{protocol}.json"
        sides = None if protocol == "single" else list(make_protocol(protocol, self.recipe.model.input_px).shorter_sides)
        wanted = {"data_root": str(self.recipe.data.root_path), "subset": "all", "scales": sides}
        told = _read(file)
        same = all(key in told and told[key] == value for key, value in wanted.items())
        return file.with_suffix(".parquet") if same and file.with_suffix(".parquet").is_file() else None


def members_of(ensemble: Ensemble, folder: Path) -> list[Member]:
    """Each member with its run directory in `folder`. Raises CheckpointError for one that was begun with another recipe."""
    members = [Member(name, recipe, Run(folder / name)) for name, recipe in ensemble.members.items()]
    for member in members:
        path = member.run.path
        if is_run(path):
            changed = changed_keys(member.recipe, member.run)
            if changed:
                raise CheckpointError(
                    f"{path} was started with another recipe:\n  " + "\n  ".join(changed),
                    "name another folder with --output, or give the recipe that it was started with",
                )
        elif path.exists() and (not path.is_dir() or visible(path)):
            raise CheckpointError(f"{path} is occupied by something else", "name another folder with --output")
    return members


def check_same_images(members: Sequence[Member]) -> None:
    """Raise DataError unless all members validate on the same images of the same classes, which only their end would show else."""
    sources = [(member.recipe.data.root_path, member.recipe.data.sources(member.recipe.data.root_path)) for member in members]
    opened = None
    for member, (root, told) in zip(members, sources, strict=True):
        if (root, told) == sources[0]:
            continue
        opened = opened or open_split(sources[0][0], "val", **sources[0][1])
        images = open_split(root, "val", **told)
        for what, same in (
            ("classes", images.classes == opened.classes),
            ("images", names_below_root(images) == names_below_root(opened)),
            ("labels", images.labels.tolist() == opened.labels.tolist()),
        ):
            if not same:
                raise DataError(
                    f"{members[0].name} and {member.name} would be validated on different {what}: {opened.folder} and {images.folder}",
                    "an ensemble answers about one set of images; let the members' sections `data` name the same",
                )


def _read(file: Path) -> dict[str, object]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
