"""What the stages of `inceptionctl bench` share: images, a machine and ranks to measure with, and where the result goes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl import console
from inceptionctl.errors import EnvironmentFault, RanksEndedError

if TYPE_CHECKING:
    from inceptionctl.bench.figures import Figure
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.distributed.session import Machine
    from inceptionctl.recipe.schema import Recipe

RESULT_FILE = "INCEPTIONCTL_RESULT_FILE"


def images_for(folder: Path | None, recipe: Recipe, split: Literal["train", "val"]) -> ImageSet:
    """The photographs below a folder, or a recipe's images. Raises DataError where there are none."""
    if folder:
        from inceptionctl.bench.photographs import images_below

        found = images_below(folder)
        # Which imports torch: an empty folder is an error in a second.
        from inceptionctl.evaluate.inputs import folder_of

        return folder_of(found)
    from inceptionctl.data.dataset import open_split

    root = recipe.data.root_path
    return open_split(root, split, **recipe.data.sources(root))


def this_machine(threads: int | None = None) -> Machine:
    """The device of this process, with all its cores unless `threads` are named."""
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.subject import claim_machine

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


def run_in_ranks(words: Sequence[str], gpus: int | None, cpu_ranks: int | None, output: Path | None) -> console.JsonObject:
    """Start `inceptionctl WORDS` once a rank; write what rank 0 has given to `leave_result` into `output`, and return it.

    Without a number it is one rank, on a GPU where there is one. Raises RanksEndedError when a rank fails, which says why, and what
    `choose_ranks` and `launch` raise.
    """
    from inceptionctl.distributed.local import choose_ranks, launch, visible_gpus

    ranks = choose_ranks(1 if gpus is None and cpu_ranks is None and visible_gpus() else gpus, cpu_ranks)
    with tempfile.TemporaryDirectory(prefix="inceptionctl-") as folder:
        file = Path(folder, "result.json")
        os.environ[RESULT_FILE] = str(file)
        try:
            code = launch(ranks, words, None)
        finally:
            del os.environ[RESULT_FILE]
        # A rank may fail after its measurement, which took minutes.
        found = written(json.loads(file.read_text(encoding="utf-8")), output) if file.exists() else None
    if code or found is None:
        raise RanksEndedError(code)
    return found


def leave_result(result: console.JsonObject) -> bool:
    """Give a JSON-like result to the process that has started this rank; False where that was torchrun or srun."""
    name = os.environ.get(RESULT_FILE)
    if name is None:
        return False
    Path(name).write_text(json.dumps(result), encoding="utf-8")
    return True
