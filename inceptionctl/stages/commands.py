"""A request as the words of its command: for the ranks and steps that a stage starts, and for hints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


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
