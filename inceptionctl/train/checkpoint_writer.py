"""Checkpoints written in the background: a step is held up by the copying of tensors, not by hashing and the disk.

A thread is enough: writing, syncing and hashing all free Python's lock. One checkpoint is written at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from inceptionctl.errors import EnvironmentFault, InceptionctlError
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, Snapshot, take_snapshot, write_snapshot
from inceptionctl.train.optim import WeightAverage


class CheckpointWriter:
    """Saves the checkpoints of one run, one after the other, and prunes after each. Only rank 0 has work for it.

    What goes wrong in the background is raised by the next `save` or by `finish`, worded as by a save in the foreground. With
    `continue_on_error` it says at once when a disk refuses, and tries again at the next `save`; `finish` still raises what the last one met.
    """

    def __init__(
        self, checkpoints: Path, *, keep_last: int, keep_best: bool, say: Callable[[str], None], continue_on_error: bool = False
    ) -> None:
        self.num_failed = 0
        """Saves that a disk has refused, and that the training has outlived."""
        self._checkpoints = checkpoints
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._say = say
        self._continue_on_error = continue_on_error
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._snapshot: Snapshot | None = None

    def save(
        self,
        model: nn.Module,
        average: WeightAverage,
        state: Mapping[str, Tensor],
        progress: Progress,
        since: float | None = None,
    ) -> None:
        """Copy everything, and begin to write it. Waits for the save before this one, and raises what went wrong with it.

        `state` are the optimizer's tensors; `since` is when training began to wait for them (`time.perf_counter`), if before.
        """
        began = time.perf_counter() if since is None else since
        self.wait()
        self._failure = None
        # The memory of the copy before is used again: fresh pages would take several times as long as the copying.
        self._snapshot = take_snapshot(model, average, state, progress, into=self._snapshot)
        held_up = time.perf_counter() - began
        thread = threading.Thread(target=self._write, args=(self._snapshot, held_up), name="checkpoint", daemon=True)
        thread.start()
        self._thread = thread

    def wait(self) -> None:
        """Wait until nothing is being written. Raises what went wrong with it, unless training continues in spite of it."""
        self._join()
        if not (self._continue_on_error and isinstance(self._failure, EnvironmentFault)):
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is being written. Raises EnvironmentFault when the last save has failed."""
        self._join()
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def settle(self) -> None:
        """Wait as `finish` does, but only say what went wrong: for who leaves with an error of their own."""
        try:
            self.finish()
        except InceptionctlError as error:
            self._say(f"the last checkpoint was not saved: {error.message}")

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
        self._thread = None

    def _write(self, snapshot: Snapshot, held_up: float) -> None:
        start = time.perf_counter()
        try:
            saved = write_snapshot(self._checkpoints, snapshot)
            files.prune(self._checkpoints, snapshot.step, self._keep_last, self._keep_best, snapshot.progress["kept"])
            self._say(f"saved {saved} (training blocked for {held_up:.2f} s, written in {time.perf_counter() - start:.1f} s)")
        except Exception as error:  # whatever it is, the training must hear of it
            self._failure = error
            if self._continue_on_error and isinstance(error, EnvironmentFault):
                self.num_failed += 1
                last = files.pointed(self._checkpoints, "latest")
                self._say(
                    f"THE CHECKPOINT OF STEP {snapshot.step} WAS NOT SAVED: {error.message}; training continues, with"
                    f" {last or 'no checkpoint'} to go back to, and tries again at the next save (checkpoint.on_write_error)"
                )
