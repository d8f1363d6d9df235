"""What `evaluate` and `predict --submission` share: ranks, progress, and where an interrupted one goes on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console

if TYPE_CHECKING:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.distributed.world import World
    from inceptionctl.evaluate.resumable import Ranks


@contextlib.contextmanager
def join_ranks(world: World | None) -> Iterator[tuple[Machine, Ranks]]:
    """The machine's part of this process, and what it is among others."""
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
def folder_of_parts(file: Path | None) -> Iterator[Path]:
    """Where an interrupted evaluation is gone on with; nowhere, when nobody says where its result belongs."""
    if file:
        yield file.with_name(f".{file.stem}.parts")
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "parts"


@contextlib.contextmanager
def answering(ranks: Ranks, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on rank 0, moved by (images done, images in all) of its own share."""
    with console.progress_bar() if ranks.rank == 0 else contextlib.nullcontext() as bar:
        task = bar.add_task(what, total=None) if bar else None

        def show(done: int, total: int) -> None:
            # The others' shares are as large, and about as far.
            if bar and task is not None:
                bar.update(task, completed=done * ranks.size, total=total * ranks.size)

        yield show
