"""Suggestions for misspelt paths."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

_MAX_LOOKED_AT = 20_000  # entries of a folder


def did_you_mean(path: Path | str) -> str:
    """`did you mean X? ` with the existing path that is most similar to a missing one; empty if none is similar.

    Only the first part of the path that does not exist is compared, with its siblings.
    """
    path = Path(path)
    missing = next((part for part in (*reversed(path.parents), path) if not os.path.lexists(part)), None)
    if missing is None:
        return ""
    try:
        with os.scandir(missing.parent) as found:
            names = {entry.name.casefold(): entry.name for entry in islice(found, _MAX_LOOKED_AT)}
    except OSError:
        return ""
    close = difflib.get_close_matches(missing.name.casefold(), names, n=1, cutoff=0.7)
    if not close:
        return ""
    nearest = missing.with_name(names[close[0]])
    whole = nearest / path.relative_to(missing)
    return f"did you mean {whole if whole.exists() else nearest}? "
