"""What each rank is at, told to the others: who has waited too long for them can then say for whom."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from torch._C._distributed_c10d import Store

from inceptionctl import console
from inceptionctl.distributed.rendezvous import is_held_by_torchrun, key_of, sign_of_life
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault

SECONDS_BETWEEN_BEATS = 2.0
# A beat may be late on a busy machine; three of them are not.
BEATS_OF_SILENCE = 3
BEATS_BEFORE_LISTENING = 2
# A call of gloo that gives up lets a rank leave in order, and so comes first.
SECONDS_FOR_GLOO = 10.0


class State(StrEnum):
    """What a rank is at, as messages say it of a rank."""

    CONNECTS = "connects"
    STARTS = "starts"
    LISTS_DATA = "lists the data"
    READS_IMAGES = "reads images"
    COMPILES = "compiles"
    TRAINS = "trains"
    VALIDATES = "validates"
    SAVES = "saves"
    ROLLS_BACK = "goes back"
    ANSWERS = "answers"


# Where a rank that stands still waits for others; elsewhere it may be busy on its own for as long as it takes.
WAITING = (State.CONNECTS, State.STARTS, State.TRAINS, State.VALIDATES)


class HungRankError(EnvironmentFault):
    """Other ranks have been waited for in vain; the message names them where that can be told."""


@dataclass
class Sign:
    """The last sign of life of a rank: what it said, and when it said something new, on the clock of who listens."""

    said: console.JsonObject
    heard: float


class Heartbeat:
    """The sign of life of one rank, and what it knows of the others'.

    One thread writes step and doing into the ranks' store every two seconds, which is all while training goes on. It reads the others'
    signs only while its own rank stands still, so that a rank that does not come is known when a collective call gives up. A stopped
    process gives no sign; one whose main thread hangs still does, and shows for how long it has been at the same place.

    Another thread watches. Where the rank waits for others, it warns after half of `timeout_seconds`, and ends the process with code 4
    a little after all of it: gloo's calls give up by themselves, but NCCL's do not raise anything in the main thread (its watchdog aborts
    the process without a word about the rank), and calls to a store whose process is stopped never come back.
    """

    def __init__(self, world: World, timeout_seconds: float) -> None:
        self._world = world
        self._timeout = timeout_seconds
        self._step = 0
        self._state = State.CONNECTS
        self._since = time.monotonic()
        self._beats = 0
        self._signs: dict[int, Sign] = {}
        self._asked: float | None = None
        self._ended = threading.Event()
        self._pause = min(SECONDS_BETWEEN_BEATS, timeout_seconds / 20)
        if world.size > 1:
            threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def join(self, store: Store) -> None:
        """The ranks have met: give signs from now on."""
        threading.Thread(target=self._beat, args=(store,), name="heartbeat", daemon=True).start()

    @property
    def stands_for(self) -> float:
        """Seconds since this rank has last gone on to another thing."""
        return time.monotonic() - self._since

    def has_waited_too_long(self) -> bool:
        """Whether another rank, that came a little earlier, may have given up by now."""
        return self._world.size > 1 and self.stands_for > 0.9 * self._timeout

    @contextlib.contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Say what the rank is at meanwhile. After an error it is still said."""
        before = self._state
        self._state, self._since = state, time.monotonic()
        yield
        self._state, self._since = before, time.monotonic()

    def enter(self, state: State, step: int | None = None) -> None:
        """The rank is at something new, or at the next piece of the same."""
        self._state, self._since = state, time.monotonic()
        self._step = self._step if step is None else step

    def end(self) -> None:
        """No more signs: the rank leaves."""
        self._ended.set()

    def fault(self) -> HungRankError:
        """The error of a rank that has waited for longer than it may."""
        return HungRankError(
            self._waits(),
            "look at that rank's host and process; rerun the same command to resume from the last checkpoint"
            f" (train.collective_timeout_seconds is {self._timeout:g})",
        )

    def _waits(self) -> str:
        place = f"in step {self._step + 1}" if self._state is State.TRAINS else f"where it {self._state}"
        return f"rank {self._world.rank} has waited {self.stands_for:.0f} s {place}: {self.missed()}"

    def missed(self) -> str:
        """Who is waited for, in words."""
        silence, now = BEATS_OF_SILENCE * self._pause, time.monotonic()
        if self._asked is not None and now - self._asked > silence:
            return f"{self._holder()}, where the ranks meet, has not answered for {now - self._asked:.0f} s"
        if not self._signs and self._world.rank == 0 and not is_held_by_torchrun():
            return "not all of the others have come"
        if not self._signs:
            return f"{self._holder()}, where the ranks meet, does not answer"
        others = {rank: sign for rank, sign in sorted(self._signs.items()) if rank != self._world.rank}
        silent = [
            f"no sign of {self._named(rank)} for {self._unheard(sign):.0f} s"
            for rank, sign in others.items()
            if self._unheard(sign) > silence
        ]
        behind = [
            f"{self._named(rank)} {sign.said['doing']} at step {sign.said['step'] + 1}, for {sign.said['for']:.0f} s"
            for rank, sign in others.items()
            if (sign.said["step"], sign.said["doing"]) != (self._step, self._state)
        ]
        alike = "all others give signs of life at the same place: one may be slow there, or the network between them"
        return "; ".join(silent or behind) or alike

    def _unheard(self, sign: Sign) -> float:
        """Seconds without anything new from a rank, of those in which this one has listened."""
        return time.monotonic() - max(sign.heard, self._since + BEATS_BEFORE_LISTENING * self._pause)

    def _holder(self) -> str:
        who = "torchrun" if is_held_by_torchrun() else self._named(0)
        return f"{who} at {self._world.master_address}:{self._world.master_port}"

    def _named(self, rank: int) -> str:
        sign = self._signs.get(rank)
        return f"rank {rank} ({sign.said['host']}, process {sign.said['process']})" if sign else f"rank {rank}"

    def _beat(self, store: Store) -> None:
        keys = [key_of(rank) for rank in range(self._world.size)]
        # The store goes with rank 0, or with torchrun's agent; where its holder hangs, this thread does too.
        with contextlib.suppress(RuntimeError):
            while not self._ended.wait(self._pause):
                self._beats += 1
                self._asked = time.monotonic()
                store.set(keys[self._world.rank], sign_of_life(self._beats, self._step, self._state, self.stands_for))
                if self.stands_for > BEATS_BEFORE_LISTENING * self._pause or not self._signs:
                    self._listen(store.multi_get(keys))
                self._asked = None

    def _watch(self) -> None:
        warned_of = 0.0
        while not self._ended.wait(self._pause):
            if self._state not in WAITING:
                continue
            if self.stands_for > self._timeout + SECONDS_FOR_GLOO:
                console.print_error(self.fault())
                os._exit(HungRankError.exit_code)
            if self.stands_for > self._timeout / 2 and warned_of != self._since and self._speaks():
                warned_of = self._since
                console.warn(f"{self._waits()}; the run ends after {self._timeout:g} s of that")

    def _listen(self, texts: list[bytes]) -> None:
        now = time.monotonic()
        signs = [Sign(json.loads(text), now) for text in texts]
        known = self._signs
        self._signs = {
            rank: known[rank] if rank in known and known[rank].said["beats"] == sign.said["beats"] else sign
            for rank, sign in enumerate(signs)
        }

    def _speaks(self) -> bool:
        """Whether this is the first of the ranks that still give signs: one warning is enough."""
        lively = [rank for rank, sign in self._signs.items() if self._unheard(sign) <= BEATS_OF_SILENCE * self._pause]
        return self._world.rank == min(lively, default=self._world.rank)
