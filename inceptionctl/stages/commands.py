"""A request as the words of its command: for the ranks and steps that a stage starts, and for hints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from inceptionctl import console
from inceptionctl.errors import RanksEndedError, ResumeLater


def command_words(
    verb: str, *arguments: object, settings: Sequence[str] = (), options: Mapping[str, object] | None = None
) -> list[str]:
    """`VERB ARGUMENTS --set SETTING ... --OPTION VALUE ...` without `inceptionctl`.

    `options` are by their names with _ for -; those that are None or False are left out, True is a flag, a tuple is joined by commas.
    """
    words = [*verb.split(), *map(str, arguments)]
    words += [word for setting in settings for word in ("--set", setting)]
    for name, value in (options or {}).items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return words


def run_step(name: str, words: Sequence[str], command: Sequence[str]) -> None:
    """Do `inceptionctl WORDS` for a member or a training, as a step of `inceptionctl COMMAND`.

    Raises ResumeLater when a signal stopped it, RanksEndedError when it failed.
    """
    from inceptionctl.distributed.stage import run_stage

    code = run_stage(words)
    again = f"resume with: {shlex.join(['inceptionctl', *command])}"
    if code == ResumeLater.exit_code:
        raise ResumeLater(f"stopped in `{words[0]}` of {name}", again)
    if code:
        console.say(f"`{words[0]}` of {name} ended with exit code {code}; once that is fixed, {again}")
        raise RanksEndedError(code)
