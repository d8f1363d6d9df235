"""A request as the words of its command: for hints, and for the ranks and steps that a stage starts, with what rank 0 returns to it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from inceptionctl.console import JsonObject
from inceptionctl.errors import RanksEndedError
from inceptionctl.stages.bench_io import written

RESULT_FILE = "INCEPTIONCTL_RESULT_FILE"


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


def run_in_ranks(words: Sequence[str], gpus: int | None, cpu_ranks: int | None, output: Path | None) -> JsonObject:
    """Start `inceptionctl WORDS` once a rank; write what rank 0 has given to `leave_result` into `output`, and return it.

    Without a number it is one rank, on a GPU where there is one. Raises RanksEndedError when a rank fails, which says why, and what
    `choose_ranks` and `launch` raise.
    """
    from inceptionctl.distributed.local import choose_ranks, launch, visible_gpus

    ranks = choose_ranks(1 if gpus is None and cpu_ranks is None and visible_gpus() else gpus, cpu_ranks)
    with tempfile.TemporaryDirectory(prefix="inceptionctl-") as folder:
        file = Path(folder, "result.json")
        os.environ[RESULT_FILE] = str(file)
        try:
            code = launch(ranks, words, None)
        finally:
            del os.environ[RESULT_FILE]
        # A rank may fail after its measurement, which took minutes.
        found = written(json.loads(file.read_text(encoding="utf-8")), output) if file.exists() else None
    if code or found is None:
        raise RanksEndedError(code)
    return found


def leave_result(result: JsonObject) -> bool:
    """Give a JSON-like result to the process that has started this rank; False where that was torchrun or srun."""
    name = os.environ.get(RESULT_FILE)
    if name is None:
        return False
    Path(name).write_text(json.dumps(result), encoding="utf-8")
    return True
