"""Images that cannot be read or decoded: which, why, and how many of them a run bears.

DALI raises for a whole batch and does not say for which image; and a pipeline that has raised is of no more use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from inceptionctl.data import reasons
from inceptionctl.data.machine_faults import FROM_DALI, machine_fault
from inceptionctl.errors import DataError
from inceptionctl.stderr_capture import capture_stderr

Feed = tuple[Any, ...]

_NAMED = 5


class BadImages:
    """What was found so far. With `most` 0, as for an evaluation, the first one is an error."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._reasons: dict[str, str] = {}
        self._fresh: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """Number of different images."""
        return len(self._reasons)

    def __contains__(self, name: str) -> bool:
        """Whether an image was bad before; it may do another time, when another part of it is wanted."""
        return name in self._reasons

    def note(self, name: str, reason: str) -> None:
        """Remember an image that was found here."""
        if name not in self._reasons:
            self._reasons[name] = reason
            self._fresh.append((name, reason))

    def add(self, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take over (name, reason) pairs that were found elsewhere, or earlier; gives those that were not known."""
        fresh = [(name, reason) for name, reason in dict(found).items() if name not in self._reasons]
        self._reasons.update(fresh)
        return fresh

    @property
    def num_fresh(self) -> int:
        """How many `take_fresh` would give."""
        return len(self._fresh)

    def take_fresh(self) -> list[tuple[str, str]]:
        """What `note` was told since this was last asked."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def check(self, root: object) -> None:
        """Raise DataError, which names some, when there are more than `most`."""
        if len(self) <= self.most:
            return
        named = [f"{name}: {reason}" for name, reason in list(self._reasons.items())[:_NAMED]]
        more = f"\nand {len(self) - _NAMED} more" if len(self) > _NAMED else ""
        hint = f"`inceptionctl data check {root}` lists every file that cannot be read"
        if self.most:
            what = f"{len(self)} images cannot be used, and data.max_bad_images is {self.most}:\n"
            raise DataError(what + "\n".join(named) + more, f"{hint}; or raise data.max_bad_images")
        one = len(self) == 1
        raise DataError(
            f"cannot decode {named[0]}" if one else f"cannot decode {len(self)} images:\n" + "\n".join(named) + more, hint
        )


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
