"""What a run says: the live line, log.txt, metrics.jsonl and TensorBoard. Rank 0 only; on other ranks every call does nothing."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from types import ModuleType
from typing import Any

from rich.live import Live
from rich.text import Text

from inceptionctl import console
from inceptionctl.run import Run, disk_errors, write_atomically

SCALARS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "images_per_second",
    "data_wait",
    "bad_images",
    "zero_share",
    "top1_error",
    "top5_error",
)


class RunLog:
    """Writers of one run. Rows after `start_step`, which a killed run left behind, are dropped: none is repeated.

    So is the validation of that very step with `evaluation_due`.
    """

    def __init__(self, run: Run, *, start_step: int, enabled: bool, evaluation_due: bool = False) -> None:
        self.enabled = enabled
        self._run = run
        self._live: Live | None = None
        self._one_at_a_time = threading.Lock()  # checkpoints are told of from a thread of their own
        if not enabled:
            return
        # Where TensorFlow is installed, tensorboard imports it for its file functions alone: 4 s and a page of messages. It looks
        # for this module to know that it should not.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        # Imported here: only rank 0 pays for it.
        from torch.utils.tensorboard.writer import SummaryWriter

        _drop_rows_after(run, start_step, evaluation_due)
        with disk_errors(run.path):
            self._metrics = run.metrics_file.open("a", encoding="utf-8")
            self._text = run.log_file.open("a", encoding="utf-8")
            self._events = SummaryWriter(str(run.tensorboard), purge_step=start_step + 1 if start_step else None)
        if console.err.is_terminal:
            self._live = Live(console=console.err, refresh_per_second=4, transient=True)
            self._live.start()

    def say(self, message: str) -> None:
        """A message on stderr and in log.txt."""
        if self.enabled:
            console.say(message)
            self._note(message)

    def row(self, kind: str, values: dict[str, Any]) -> None:
        """A row of numbers; `values` holds step and epoch."""
        if not self.enabled:
            return
        with disk_errors(self._run.path):
            self._metrics.write(json.dumps({"kind": kind, "time": round(time.time(), 3), **values}) + "\n")
            self._metrics.flush()
        with disk_errors(self._run.path):
            for name in SCALARS:
                if isinstance(values.get(name), int | float) and math.isfinite(values[name]):
                    self._events.add_scalar(f"{kind}/{name}", values[name], values["step"])
            for block, value in values.get("activation_rms", {}).items():
                if isinstance(value, float):
                    self._events.add_scalar(f"activation_rms/{block}", value, values["step"])
            self._events.flush()

    def progress(self, line: str, *, window_ended: bool) -> None:
        """The live line on a terminal; a plain line a log window elsewhere and in log.txt."""
        if not self.enabled:
            return
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif window_ended:
            console.say(line)
        if window_ended:
            self._note(line)

    def close(self) -> None:
        """End the live line and close the files."""
        if not self.enabled:
            return
        if self._live:
            self._live.stop()
        self._metrics.close()
        self._text.close()
        self._events.close()
        self.enabled = False

    def _note(self, message: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._one_at_a_time, disk_errors(self._run.path):
            self._text.write("".join(f"{stamp} {line}\n" for line in message.splitlines()))
            self._text.flush()


def _drop_rows_after(run: Run, step: int, evaluation_due: bool) -> None:
    last = {"evaluate": step - 1 if evaluation_due else step}
    kept = [row for row in run.metrics() if row["step"] <= last.get(str(row.get("kind")), step)]
    if run.metrics_file.exists():
        write_atomically(run.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))
