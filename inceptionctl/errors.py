"""Errors that a user can meet, and the exit code of each.

    InceptionctlError            1   anything worded that fits no kind below
    |-- RecipeError              2   a recipe, a key of it, or a command-line value
    |-- DataError                3   a data set or an image
    |-- EnvironmentFault         4   the machine: GPUs, disk, ports, packages, other ranks
    |-- CheckpointError          5   a checkpoint, a run directory or an export
    |-- DivergedError            6   the training itself: a loss that is not finite
    `-- ResumeLater             75   no failure: a training that was asked to stop and has saved its state

Exit codes 130 and 143 are a command that was interrupted (SIGINT, SIGTERM) and exited at once, 141 one whose output pipe was closed (SIGPIPE).
Code 1 without a worded message is a bug of inceptionctl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: `where` is file:line (or the option that set it), `message` names key and value."""

    where: str
    message: str
    hint: str | None = None


class InceptionctlError(Exception):
    """A failure with a message for people.

    `message` says what is wrong, with the value and the place; `hint` says what to do, with a command where there is one. One that
    is several at once carries every problem found, not only the first.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem.where}: {problem.message}" for problem in self.problems)]
        return "\n".join(lines) + (f"\n\nhint: {self.hint}" if self.hint else "")


class RecipeError(InceptionctlError):
    """A recipe or a command-line value that cannot be used."""

    exit_code = 2


class DataError(InceptionctlError):
    """A data set that is missing, does not fit the recipe, or holds an image that cannot be decoded."""

    exit_code = 3


class EnvironmentFault(InceptionctlError):
    """Something of the machine: no GPU where one is asked for, no space left, a port in use, a lost rank."""

    exit_code = 4


class CheckpointError(InceptionctlError):
    """A checkpoint, run directory or export that is missing, damaged, occupied, or of another network."""

    exit_code = 5


class DivergedError(InceptionctlError):
    """Training went wrong in its numbers. The last good checkpoint is kept."""

    exit_code = 6


class ResumeLater(InceptionctlError):
    """A signal has stopped a training and nothing is lost: the same command resumes it. 75 is EX_TEMPFAIL, "try again"."""

    exit_code = 75


class LostRankError(EnvironmentFault):
    """Another rank has ended; its own message says why."""


class RelayedError(InceptionctlError):
    """Another rank met an error and says it; this one ends silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another rank reported an error")
        self.exit_code = exit_code


class RanksEndedError(InceptionctlError):
    """The ranks, or a step, that a command has started ended with this exit code, and have said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"ended with code {exit_code}", "stderr says why")
        self.exit_code = exit_code
