"""What a run says: the live line, log.txt, metrics.jsonl, TensorBoard, other trackers. Rank 0 only; elsewhere every call does nothing."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.live import Live
from rich.text import Text

from inceptionctl import console
from inceptionctl.errors import EnvironmentFault
from inceptionctl.run import Run
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.train.trackers import Row, Service, Tracker, close_trackers, scalars


class RunLog:
    """Writers of one run. Rows after `start_step`, which a killed run left behind, are dropped: none is repeated.

    So is the validation of that very step with `evaluation_due`.

    What a disk does not take ends the run, unless `continue_on_error`: then lines are kept in memory until there is room, and only points of
    TensorBoard are lost. One that is not `of_a_training` says nothing of how far it is: a measurement has no end to be near to.
    """

    def __init__(
        self,
        run: Run,
        *,
        start_step: int,
        enabled: bool,
        evaluation_due: bool = False,
        continue_on_error: bool = False,
        of_a_training: bool = True,
        services: Iterable[Service] = (),
    ) -> None:
        self.enabled = enabled
        self._of_a_training = of_a_training
        self._run = run
        self._continue_on_error = continue_on_error
        self._told = False
        self._live: Live | None = None
        self._one_at_a_time = threading.Lock()  # checkpoints are told of from a thread of their own
        if not enabled:
            return
        # Where TensorFlow is installed, tensorboard imports it for its file functions alone: 4 s and a page of messages. It looks
        # for this module to know that it should not.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        with disk_errors(run.path):
            self._text = _Lines(run.log_file)
        self._open(start_step, evaluation_due)
        self._trackers = [Tracker(service, run, self.say) for service in services]
        for tracker in self._trackers:
            tracker.begin(run.metrics(), _last_steps(start_step, evaluation_due))
        if console.err.is_terminal and of_a_training:
            self._live = Live(console=console.err, refresh_per_second=4, transient=True)
            self._live.start()

    def _open(self, start_step: int, evaluation_due: bool) -> None:
        _drop_rows_after(self._run, start_step, evaluation_due)
        with disk_errors(self._run.path):
            self._metrics = _Lines(self._run.metrics_file)
            self._events: Any = self._event_writer(start_step + 1 if start_step else None)

    def _event_writer(self, purge_step: int | None) -> Any:
        # Imported here: only rank 0 pays for it.
        from torch.utils.tensorboard.writer import SummaryWriter

        threading.excepthook = _told_elsewhere
        return SummaryWriter(str(self._run.tensorboard), purge_step=purge_step)

    def go_back(self, step: int, evaluation_due: bool) -> None:
        """Drop the rows after `step`, as a start from there does."""
        if not self.enabled:
            return
        self._close_rows()
        self._open(step, evaluation_due)
        for tracker in self._trackers:
            tracker.go_back(_last_steps(step, evaluation_due))

    def say(self, message: str) -> None:
        """A message on stderr and in log.txt."""
        if self.enabled:
            console.say(message)
            self._note(message)

    def row(self, kind: str, values: Mapping[str, Any]) -> None:
        """A row of numbers; `values` holds step and epoch."""
        if not self.enabled:
            return
        row = {"kind": kind, "time": round(time.time(), 3), **values}
        self._tried(lambda: self._metrics.add(json.dumps(row) + "\n"))
        for tracker in self._trackers:
            tracker.add(row)
        if not self._tried(lambda: self._add_scalars(row)) and self._events:
            # Its thread may have died of the error: another one, when there is room.
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None

    def _add_scalars(self, row: Row) -> None:
        self._events = self._events or self._event_writer(row["step"])
        for name, value in scalars(row).items():
            self._events.add_scalar(name, value, row["step"])
        self._events.flush()

    def _tried(self, write: Callable[[], None]) -> bool:
        """Write something; whether a disk has taken it."""
        try:
            with disk_errors(self._run.path):
                write()
        except EnvironmentFault as error:
            if not self._continue_on_error:
                raise
            if not self._told:
                console.say(f"{error.message}: rows and log lines are kept in memory until there is room")
            self._told = True
            return False
        return True

    def progress(self, line: str, *, window_ended: bool) -> None:
        """The live line on a terminal; a plain line a log window elsewhere and in log.txt."""
        if not (self.enabled and self._of_a_training):
            return
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif window_ended:
            console.say(line)
        if window_ended:
            self._note(line)

    def close(self, *, finished: bool = False) -> None:
        """End the live line and close the files; the trackers are told whether the training is `finished`."""
        if not self.enabled:
            return
        if self._live:
            self._live.stop()
        close_trackers(self._trackers, finished)
        self.enabled = False
        with contextlib.suppress(EnvironmentFault):  # raised when the line was added
            self._close_rows()
        with contextlib.suppress(EnvironmentFault):
            self._tried(self._text.close)

    def _close_rows(self) -> None:
        self._tried(self._metrics.close)
        if self._events:
            self._tried(self._events.close)

    def _note(self, message: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{stamp} {line}\n" for line in message.splitlines())
        with self._one_at_a_time:
            self._tried(lambda: self._text.add(lines))


def _told_elsewhere(failure: threading.ExceptHookArgs) -> None:
    # TensorBoard's thread hands an error of the disk to its next caller and prints its own traceback besides.
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failure)


class _Lines:
    """A text file to add lines to. What the disk has not taken is written before the next line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._left = b""

    def add(self, text: str) -> None:
        """Write lines. Raises OSError when the disk refuses; they are kept then."""
        self._left += text.encode()
        while self._left:
            self._left = self._left[self._file.write(self._left) :]

    def close(self) -> None:
        """Write what is left, and close in any case."""
        try:
            self.add("")
        finally:
            self._file.close()


def _drop_rows_after(run: Run, step: int, evaluation_due: bool) -> None:
    last = _last_steps(step, evaluation_due)
    kept = [row for row in run.metrics() if row["step"] <= last.get(str(row.get("kind")), step)]
    if run.metrics_file.exists():
        write_atomically(run.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))


def _last_steps(step: int, evaluation_due: bool) -> dict[str, int]:
    """The last step of each kind of row that a start from `step` leaves."""
    return {"train": step, "evaluate": step - 1 if evaluation_due else step}
