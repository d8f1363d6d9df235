"""What the stages of `inceptionctl bench` share: images and a machine to measure with, and where the result goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl import console
from inceptionctl.errors import EnvironmentFault

if TYPE_CHECKING:
    from inceptionctl.bench.timing import Figure
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.distributed.session import Machine
    from inceptionctl.recipe.schema import Recipe


def images_for(folder: Path | None, recipe: Recipe, split: Literal["train", "val"]) -> ImageSet:
    """The photographs below a folder, or a recipe's images. Raises DataError where there are none."""
    if folder:
        from inceptionctl.bench.photographs import images_below

        found = images_below(folder)
        # Which imports torch: an empty folder is an error in a second.
        from inceptionctl.evaluate.images import folder_of

        return folder_of(found)
    from inceptionctl.data.dataset import open_split

    root = recipe.data.root_path
    return open_split(root, split, **recipe.data.sources(root))


def this_machine(threads: int | None = None) -> Machine:
    """The device of this process, with all its cores unless `threads` are named."""
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.machine import claim_machine

    claimed = claim_machine()
    return Machine(claimed.device, threads or claimed.num_threads)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar, and what moves it: (name, done, total)."""
    with console.progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def refuse_unwritable(output: Path | None) -> None:
    """Before minutes are spent on what could not be written. Raises EnvironmentFault."""
    if output and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise EnvironmentFault(f"cannot write {output}", "name a file in a folder that exists")


def with_figures(result: console.JsonObject, figures: Sequence[Figure]) -> console.JsonObject:
    """What `--json` prints: the result with its figures."""
    return {**result, "figures": [figure.to_json() for figure in figures]}


def written(result: console.JsonObject, output: Path | None) -> console.JsonObject:
    """The result, once it is in the file `output` as JSON, if one is named."""
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
