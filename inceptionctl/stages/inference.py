"""What `evaluate`, `predict --submission` and `ensemble --submission` share: ranks, progress, partial results, the server's file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console

if TYPE_CHECKING:
    from torch import Tensor

    from inceptionctl.distributed.session import Machine
    from inceptionctl.distributed.world import World
    from inceptionctl.evaluate.resumable import Ranks


@contextlib.contextmanager
def join_ranks(world: World | None) -> Iterator[tuple[Machine, Ranks]]:
    """The device and threads of this process, and its place among the ranks."""
    from inceptionctl.evaluate.resumable import Ranks
    from inceptionctl.evaluate.subject import claim_machine

    if world is None:
        yield claim_machine(), Ranks()
        return
    from inceptionctl.distributed.heartbeat import State
    from inceptionctl.distributed.session import session

    with session(world) as joined:
        joined.heartbeat.enter(State.ANSWERS)  # for as long as it takes: nobody is waited for
        yield joined.machine, Ranks(world.rank, world.size, joined.on_rank_zero)


@contextlib.contextmanager
def partial_results(file: Path | None) -> Iterator[Path]:
    """The folder from which an interrupted evaluation resumes; a temporary one where its result has no file."""
    if file:
        yield file.with_name(f".{file.stem}.parts")
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "parts"


@contextlib.contextmanager
def progress(ranks: Ranks, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on rank 0, updated with (images done, images in total) of its own share."""
    with console.progress_bar() if ranks.rank == 0 else contextlib.nullcontext() as bar:
        task = bar.add_task(what, total=None) if bar else None

        def show(done: int, total: int) -> None:
            # The other ranks have shares of the same size, and are about as far.
            if bar and task is not None:
                bar.update(task, completed=done * ranks.size, total=total * ranks.size)

        yield show


def write_submission(file: Path, names: Sequence[str], probabilities: Tensor, ids: Sequence[int]) -> None:
    """Write the file of the ILSVRC test server; warn where it is not of the whole test or validation set.

    `probabilities` is float32 [N, classes] in the order of the lines, `ids` the server's label of each class.
    """
    from inceptionctl.evaluate.unlabelled import lines_lacking, submission
    from inceptionctl.storage import write_atomically

    write_atomically(file, submission(probabilities, ids))
    differ = lines_lacking(names)
    if differ:
        console.warn(f"{differ[0]:,} lines, and that set has {differ[1]:,} images", "the server only accepts complete files")
    console.say(f"wrote {file}")
