"""How an error leaves the program: a message with a hint on stderr and the exit code of its kind, never a traceback."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from inceptionctl import console
from inceptionctl.errors import EnvironmentFault, InceptionctlError, ResumeLater
from inceptionctl.gpu_faults import gpu_fault

INTERRUPTED = 130
_NO_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch, of a CPU's
_SMALLER = "lower train.micro_batch_size (the global batch stays) or evaluate.batch_size; `free -h` shows what others have"


class ErrorGroup(TyperGroup):
    """The command group that words every error."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn its errors into messages and exit codes."""
        try:
            return super().invoke(ctx)
        except InceptionctlError as error:
            # A rank whose error another rank reports already has nothing to add.
            if isinstance(error, ResumeLater):
                _say_how_to_go_on(error)
            elif type(error).__name__ != "RelayedError":
                console.print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            if "RANK" not in os.environ:  # the command that started the ranks says it once
                console.say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise  # usage errors, which Typer words itself
            worded = _of_the_machine(error) or _internal(error)
            console.print_error(worded)
            raise typer.Exit(worded.exit_code) from None


def _say_how_to_go_on(stopped: ResumeLater) -> None:
    # Not an error; a rank has said it in its log.
    for text in (stopped.message, stopped.hint):
        if text:
            console.say(text)


def _of_the_machine(error: Exception) -> EnvironmentFault | None:
    """What no line of ours foresaw, though it is no bug: a file that fails, memory that has run out, a GPU."""
    if isinstance(error, OSError) and error.filename:
        return EnvironmentFault(f"{error.filename}: {error.strerror}", "check the path, its permissions and the free space")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(f"cannot write: {error.strerror}", "free some space where the output and temporary files go")
    if isinstance(error, MemoryError) or _NO_HOST_MEMORY in str(error):
        said = str(error).strip().partition("\n")[0] or "the host has no more"
        return EnvironmentFault(f"memory has run out: {said}", _SMALLER)
    return gpu_fault(error)


def _internal(error: Exception) -> InceptionctlError:
    message = f"internal error: {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="inceptionctl-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:  # no folder for temporary files, or a full one
        last = traceback.extract_tb(error.__traceback__)[-1]
        return InceptionctlError(message, f"this is a bug of inceptionctl, in {last.filename}:{last.lineno}")
    return InceptionctlError(message, f"this is a bug of inceptionctl; the traceback is in {file.name}")
