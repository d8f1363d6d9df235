"""The trainings of a study on this machine: several at once, each on its share of it, as long as the budget lasts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import CheckpointError, DivergedError, InceptionctlError, RanksEndedError, ResumeLater
from inceptionctl.stages.commands import command_words
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.distributed.shares import Share
    from inceptionctl.distributed.stage import Step, Steps
    from inceptionctl.study.cells import Cell


@dataclass(frozen=True)
class _Begun:
    """A training that runs."""

    cell: Cell
    share: Share
    claim: IO[str]
    """Keeps other commands from beginning the same one."""
    log: Path | None
    began: float


class Trainings:
    """Trains what is missing of a study on `shares` of this machine, with these `options` of `train`.

    `again` is the command that resumes. The hours of the budget count from here on.
    """

    def __init__(
        self, shares: Sequence[Share], options: Mapping[str, int | None], again: str, budget_hours: float | None
    ) -> None:
        self.out_of_budget = False
        """Whether the budget has kept a training from being begun."""
        self._free, self._options, self._again = list(shares), options, f"resume with: {again}"
        self._are_several = len(shares) > 1
        self._hours, self._end = budget_hours, time.monotonic() + (budget_hours or 0.0) * 3600
        self._running: dict[Step, _Begun] = {}
        self._seconds: dict[Path, float] = {}  # of the finished ones
        self._stopped: list[str] = []
        self._failure: InceptionctlError | None = None

    def learn(self, cells: Sequence[Cell]) -> None:
        """Note how long those took that have finished before."""
        from inceptionctl.report.run_comparison import seconds_trained

        for cell in cells if self._hours else ():
            if cell.is_done and cell.contents.state == "finished" and cell.run.path not in self._seconds:
                seconds = seconds_trained(cell.contents)
                self._seconds |= {cell.run.path: seconds} if seconds else {}

    def ends_before_evaluations(self, number: int) -> bool:
        """Whether the budget's time has passed, with a `number` of evaluations left; this is said then."""
        if not self._hours or time.monotonic() < self._end:
            return False
        console.say(
            f"study.budget_hours is {self._hours:g}, and none of it is left: {counted(number, 'evaluation')} not begun;"
            " rerun the same command to continue"
        )
        return True

    def run(self, cells: Sequence[Cell], what: str) -> None:
        """Train those that are missing, in their order; `what` they are.

        After a signal all save and stop. When one fails no other is begun, and those that run go on to their end: they may be hours old. Raises
        ResumeLater for the one, and for the other RanksEndedError, or EnvironmentFault where it was killed.
        """
        from inceptionctl.distributed.stage import Steps

        with Steps() as steps:
            for number, cell in enumerate(cells, start=1):
                while not self._free:
                    self._take_end(steps)
                if steps.asked or self._stopped or self._failure or self.out_of_budget:
                    break
                self._begin_if_open(cell, f"{what} {number} of {len(cells)}: {cell.name}", steps)
            while self._running:
                self._take_end(steps)
        if self._failure:
            raise self._failure
        if self._stopped:
            raise ResumeLater(
                f"stopped in the training{'s' if len(self._stopped) > 1 else ''} of {'; '.join(self._stopped)}", self._again
            )
        if steps.asked:
            raise ResumeLater(f"stopped by {steps.asked[0]} between two trainings of the study: nothing is lost", self._again)

    def _begin_if_open(self, cell: Cell, title: str, steps: Steps) -> None:
        from inceptionctl.recipe import dump_recipe
        from inceptionctl.storage import disk_errors, write_atomically
        from inceptionctl.train.lock import take_claim

        now = replace(cell)  # looked at now, not before: another command may have trained it meanwhile
        if now.is_done or self._is_anothers(now):
            return
        if self._would_end_late(now):
            self.out_of_budget = True
            return
        with disk_errors(cell.recipe_file):
            cell.recipe_file.parent.mkdir(parents=True, exist_ok=True)
        claim = take_claim(cell.recipe_file.with_name(f".{cell.run.path.name}.lock"))
        if claim is None:
            console.say(f"{cell.name}: begun by another command; passed over")
            return
        write_atomically(cell.recipe_file, dump_recipe(cell.recipe))
        log = cell.recipe_file.with_suffix(".log") if self._are_several else None
        share = self._free.pop(0)
        console.say(f"{title} begins on {share.in_words}; output in {log}" if log else title)
        words = command_words("train", cell.recipe_file, options={"output": cell.run.path, **self._options})
        with disk_errors(cell.recipe_file):
            step = steps.start(words, share, log)
        self._running[step] = _Begun(now, share, claim, log, time.monotonic())

    def _take_end(self, steps: Steps) -> None:
        """Wait for the next training to end, and take its share back."""
        step, code = steps.wait()
        one = self._running.pop(step)
        self._free.append(one.share)
        seconds, name, now = time.monotonic() - one.began, one.cell.name, replace(one.cell)
        one.claim.close()
        if code == 0 and not one.cell.contents.step:
            self._seconds[one.cell.run.path] = seconds
        if code == CheckpointError.exit_code and (now.is_done or self._is_anothers(now)):
            return  # somebody who is no study, a job of Slurm's, has begun it in the same moment
        if code == DivergedError.exit_code:
            console.say(f"{name}: diverged or died; this is a result")
        elif code == ResumeLater.exit_code:
            self._stopped.append(name)
        elif code:
            self._fail(one, code)
        if self._are_several:
            ended = {0: "finished", ResumeLater.exit_code: "stopped"}.get(code, "ended")
            console.say(f"{name}: {ended} after {console.duration(seconds)}")

    def _fail(self, one: _Begun, code: int) -> None:
        from inceptionctl.distributed.stage import killed

        others = len(self._running)
        console.say(
            f"the training of {one.cell.name} ended with exit code {code}"
            + (f", see {one.log}" if one.log else "")
            + f"; once that is fixed, {self._again}"
        )
        if others and not self._failure:
            console.say(
                f"no other starts; {others} continue to the end, unless Ctrl-C (or another signal) saves and stops them"
            )
        self._failure = self._failure or (killed("train", -code) if code < 0 else RanksEndedError(code))

    def _is_anothers(self, now: Cell) -> bool:
        """Whether another command trains it, which is said."""
        if now.contents.is_running:
            console.say(f"{now.name}: trained by {now.contents.holder}; passed over")
        return now.contents.is_running

    def _would_end_late(self, cell: Cell) -> bool:
        """Whether a training would end after the budget, judged by the median of those that have finished; this is said then."""
        if not self._hours:
            return False
        progress, left = cell.contents.progress, self._end - time.monotonic()
        to_do = 1.0 - progress["step"] / progress["total_steps"] if progress else 1.0
        needed = to_do * statistics.median(self._seconds.values() or [0.0])
        if needed <= left:
            return False
        console.say(
            f"study.budget_hours is {self._hours:g}: {console.duration(max(0.0, left))} of it are left, and the next training"
            f" takes about {console.duration(needed)}, so none is started; rerun the same command to continue"
        )
        return True
