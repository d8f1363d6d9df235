"""How a process that has joined a process group ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn


def has_joined_ranks() -> bool:
    """Whether this process has run DeepSpeed, and so the threads of its process group."""
    return "deepspeed" in sys.modules


def leave(code: int) -> NoReturn:
    """End with `code` as the interpreter does, but without taking it down: threads awaited, exit handlers run, output written.

    A thread of gloo frees the tensors of the last collective call whenever it gets to it. Where the interpreter is going meanwhile,
    Python ends that thread inside a C++ destructor, and the process dies with 134 after a training that went well (seen in 1 of 40
    ends on a busy machine). No call joins these threads: DeepSpeed keeps the group alive after it has been destroyed.
    """
    # Not a loop of joins: the threads of an executor that nobody has shut down (torch.compile leaves one) end only when told so first.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone
            stream.flush()
    os._exit(code)
