"""Catch what C libraries write to descriptor 2 by themselves, or silence them."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, prints and log messages inside the block, also those of C++ code, which writes to descriptor 2 itself.

    As with `capture_stderr`, no progress display may draw inside the block. Errors pass as exceptions.
    """
    with capture_stderr(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
