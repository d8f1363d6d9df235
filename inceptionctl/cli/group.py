"""How an error leaves the program: a message with a hint on stderr and the exit code of its kind, never a traceback.

With --json stdout has one JSON document whatever happens: a command's result, or what went wrong as `error`, `hint` and `exit_code`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from inceptionctl import console
from inceptionctl.cli.help import Group, command_of
from inceptionctl.cli.hints import worded_for
from inceptionctl.errors import EnvironmentFault, InceptionctlError, RanksEndedError, RelayedError, ResumeLater
from inceptionctl.gpu_faults import gpu_fault

INTERRUPTED = 130
_NO_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch, of a CPU's
_SMALLER = "lower train.micro_batch_size (the global batch stays) or evaluate.batch_size; `free -h` shows what is free"
# Where ranks and steps leave the first error for the command that started them, which has the --json.
ERROR_FILE = "INCEPTIONCTL_ERROR_FILE"
_ON_STDERR = "stderr says why"


class ErrorGroup(Group):
    """The command group that words every error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words: which command they name is asked when it has failed."""
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn its errors into messages and exit codes."""
        words = ctx.meta["words"]
        as_json = "--json" in words and not is_lower_rank()
        console.json_on_stdout.clear()
        with _errors_of_ranks(as_json):
            try:
                return super().invoke(ctx)
            except InceptionctlError as error:
                command = command_of(self, words)
                error.hint = worded_for(command, error.hint)
                error.problems = tuple(replace(each, hint=worded_for(command, each.hint)) for each in error.problems)
                # A rank whose error another rank reports already has nothing to add.
                if isinstance(error, ResumeLater):
                    for text in filter(None, (error.message, error.hint)):  # no error: a rank has said it in its log
                        console.say(text)
                elif not isinstance(error, RelayedError | RanksEndedError):
                    console.print_error(error)
                _tell(console.error_object(error), as_json, relayed=isinstance(error, RelayedError))
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                if "RANK" not in os.environ:  # the command that started the ranks says it once
                    console.say("interrupted")
                _tell({"error": "interrupted", "hint": None, "exit_code": INTERRUPTED}, as_json)
                raise typer.Exit(INTERRUPTED) from None
            except typer.Exit as ended:
                if ended.exit_code:
                    what = f"ended with code {ended.exit_code}"
                    _tell({"error": what, "hint": _ON_STDERR, "exit_code": ended.exit_code}, as_json)
                raise
            except (typer.Abort, BrokenPipeError):
                raise
            except Exception as error:
                if type(error).__module__.startswith(("click", "typer")):
                    _tell(_of_usage(error), as_json)
                    raise  # usage errors, which Typer words itself
                worded = _of_the_machine(error) or _internal(error)
                console.print_error(worded)
                _tell(console.error_object(worded), as_json)
                raise typer.Exit(worded.exit_code) from None


def is_lower_rank() -> bool:
    """Whether this is a rank other than 0 of a launcher that is not ours: it shares its stdout with rank 0."""
    slurm = os.environ.get("SLURM_PROCID", "0") if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" else "0"
    return os.environ.get("RANK", slurm) != "0"


def _error_file() -> Path | None:
    """Where an error is left for the command that started this process; a job that a gone command has submitted still has its name."""
    name = os.environ.get(ERROR_FILE)
    return Path(name) if name and Path(name).parent.is_dir() else None


@contextlib.contextmanager
def _errors_of_ranks(as_json: bool) -> Iterator[None]:
    """A file for the errors of the processes that this command starts, unless it was started with one."""
    if not as_json or _error_file():
        yield
        return
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):  # nowhere to put it: then stderr alone says why
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="inceptionctl-"))
            os.environ[ERROR_FILE] = f"{folder}/{os.getpid()}.json"
            undo.callback(os.environ.pop, ERROR_FILE, None)
        yield


def _tell(error: console.JsonObject, as_json: bool, *, relayed: bool = False) -> None:
    """An error for programs: on stdout where nothing is yet, or for the command that has started this process."""
    file = _error_file()
    if file and file.stem != str(os.getpid()):
        if not relayed:
            with contextlib.suppress(OSError), file.open("x", encoding="utf-8") as first:  # the first error is the cause
                json.dump(error, first)
        return
    if not as_json or console.json_on_stdout:
        return
    if file and file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        hint = told["hint"] if error["hint"] == _ON_STDERR else error["hint"] or told["hint"]
        error = {**told, "error": told["error"] or error["error"], "hint": hint, "exit_code": error["exit_code"]}
    console.print_json({**error, "error": error["error"] or "stopped by a signal"})


def _of_usage(error: Any) -> console.JsonObject:
    path = getattr(getattr(error, "ctx", None), "command_path", "inceptionctl")
    return {"error": error.format_message(), "hint": f"`{path} --help`", "exit_code": error.exit_code}


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
