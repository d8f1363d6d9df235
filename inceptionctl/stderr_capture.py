"""Catch what C libraries write to descriptor 2 by themselves."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def capture_stderr() -> Iterator[Callable[[], str]]:
    """Keep what is written to descriptor 2 inside the block from its reader; gives a function that tells what came so far.

    The descriptor belongs to the whole process: a progress display must not draw inside the block.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            yield lambda: os.pread(printed.fileno(), 1 << 16, 0).decode(errors="replace")
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
