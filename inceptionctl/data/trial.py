"""Which image of a batch made DALI raise: it raises for all of them, and a pipeline that has raised is of no more use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from inceptionctl.data import reasons
from inceptionctl.data.machine_faults import FROM_DALI, machine_fault
from inceptionctl.stderr_capture import capture_stderr

Feed = tuple[Any, ...]


class Trial:
    """Runs the graph of a loader on single images, each with its own crop and draws.

    So the answer is a function of the place alone: a JPEG cut short is good where the crop lies in what there is of it, whatever
    images it happens to be in a batch with.
    """

    def __init__(self, build: Callable[[Callable[[], Feed]], Any]) -> None:
        """`build` makes the pipeline for batches of one, from the function that feeds it."""
        self._build = build
        self._next: deque[Feed] = deque()
        self._pipe: Any = None

    def fault(self, feed: Feed) -> str | None:
        """Why the graph does not take a batch of one image, in words; None when it does.

        Raises EnvironmentFault when the machine failed: the next image would fare no better.
        """
        self._pipe = self._pipe or self._build(lambda: self._next.popleft())
        self._next.append(feed)
        with capture_stderr() as printed:  # decoders say more there than DALI does
            try:
                self._pipe.run()
            except FROM_DALI as fault:
                self._pipe = None
                self._next.clear()
                of_machine = machine_fault(fault, printed())
                if of_machine:
                    raise of_machine from fault
                return reasons.in_words(printed(), str(fault))
        return None
