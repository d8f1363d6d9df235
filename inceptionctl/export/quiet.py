"""Keep what libraries say to themselves away from people."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from inceptionctl.stderr_capture import capture_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, prints and log messages inside the block, also those of C++ code, which writes to descriptor 2 itself.

    As with `capture_stderr`, no progress display may draw inside the block. Errors pass as exceptions.
    """
    with capture_stderr(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
