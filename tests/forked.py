"""`inceptionctl` in processes that are forked from one which has imported everything, for tests of what a command does.

Importing torch, DALI and DeepSpeed takes up to 10 seconds of processor time, in the command, in DeepSpeed's launcher and in each rank.
Here it is paid once for all tests of a worker, in multiprocessing's fork server. A process is born with what a new one is born with:
environment, working directory, standard output and error, argv. Ranks are forked from the command, where DeepSpeed's launcher would
have started them. Tests whose point is a start, a signal, a kill or an import start real processes (`new_process` in tests/commands.py).
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, NoReturn
from unittest import mock

# torch, DeepSpeed and rich read these when they are imported.
IMPORTED_WITH = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}
SECONDS_TO_LEAVE = 30.0

_context = multiprocessing.get_context("forkserver")
# One of its own: that of multiprocessing may be running with what `inceptionctl bench data` has it import.
_server = forkserver.ForkServer()
_server.set_forkserver_preload(["tests.forked_imports"])


def run_command(
    words: Sequence[str], cwd: Path | None, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `inceptionctl WORDS` to its end in a process of its own. Raises subprocess.TimeoutExpired."""
    with _Child(_command, list(words), cwd, environment) as child:
        return child.end(timeout)


def run_ranks(
    code: str, size: int, *arguments: str | Path, environment: dict[str, str], timeout: float = 180.0
) -> list[subprocess.CompletedProcess[str]]:
    """Run Python `code`, whose sys.argv[1:] are the arguments, once a rank of a job that meets on this machine."""
    from inceptionctl.distributed.local import free_port, visible_gpus

    job = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = [code, *map(str, arguments)]
    with contextlib.ExitStack() as stack:
        places = [environment | job | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        if visible_gpus():  # CUDA does not outlive a fork
            return _new_processes([sys.executable, "-c", *words], places, timeout)
        ranks = [stack.enter_context(_Child(_code, words, None, place)) for place in places]
        return [rank.end(timeout) for rank in ranks]


def _new_processes(
    command: list[str], environments: list[dict[str, str]], timeout: float
) -> list[subprocess.CompletedProcess[str]]:
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, env=one, stdout=pipe, stderr=pipe, text=True) for one in environments]
    try:
        said = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, *texts) for process, texts in zip(started, said, strict=True)
    ]


class _Child:
    """A process forked from the server, with files for what it says; killed, with what it has started, if it is left alive."""

    def __init__(
        self, target: Callable[..., NoReturn], words: list[str], cwd: Path | None, environment: dict[str, str]
    ) -> None:
        self._words = words
        self._said = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        before = dict(os.environ)
        os.environ.update(IMPORTED_WITH)  # of the server, if this starts it
        try:
            files = [DupFd(file.fileno()) for file in self._said]
            self._process: ForkServerProcess = _context.Process(
                target=_born, args=(target, words, str(cwd or Path.cwd()), environment, files)
            )
            with mock.patch.object(forkserver, "connect_to_new_process", _server.connect_to_new_process):
                self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def end(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for it. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._words, timeout, *map(_text, self._said))
        return subprocess.CompletedProcess(self._words, self._process.exitcode, *map(_text, self._said))

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid or 0, signal.SIGKILL)
            self._process.join()
        self._process.close()
        for file in self._said:
            file.close()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _born(target: Callable[..., NoReturn], words: list[str], cwd: str, environment: dict[str, str], files: list[Any]) -> None:
    os.setsid()
    for number, file in enumerate(files, start=1):
        os.dup2(file.detach(), number)
    os.chdir(cwd)
    target(words, environment)


def _command(words: list[str], environment: dict[str, str]) -> NoReturn:
    from inceptionctl.distributed import local

    local.launch = _launch
    _run(lambda: runpy.run_module("inceptionctl", run_name="__main__", alter_sys=True), ["inceptionctl", *words], environment)


def _code(words: list[str], environment: dict[str, str]) -> NoReturn:
    _run(lambda: exec(words[0], {"__name__": "__main__"}), words, environment)


def _run(main: Callable[[], object], argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Be a program, and end with its exit code."""
    from inceptionctl.distributed.exit import leave

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    for number, name in enumerate(("stdout", "stderr"), start=1):
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False, buffering=1))
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    leave(code if isinstance(code, int) else int(bool(code)))


def _launch(ranks: Any, arguments: Sequence[str], port: int | None) -> int:
    """As inceptionctl.distributed.local.launch: the exit code of the first rank that fails, which ends the others."""
    from inceptionctl.distributed import local

    assert ranks.on_cpu
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or local.free_port())}
    shared = local._environment(ranks) | meeting
    ends, held = os.pipe()  # which the ranks read, to know that the command lives
    sys.stdout.flush()
    sys.stderr.flush()
    living, first, deadline = set[int](), 0, float("inf")
    for rank in range(ranks.size):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks.size, "LOCAL_SIZE": ranks.size}
        pid = os.fork()
        if not pid:
            atexit._clear()  # a new process would not tidy up after the command
            os.close(held)
            os.dup2(ends, 0)
            _command(list(arguments), shared | {key: str(value) for key, value in world.items()})
        living.add(pid)
    while living:
        for code in _exit_codes(living):
            if code and not first:
                first, deadline = code, time.monotonic() + SECONDS_TO_LEAVE
                _send(living, signal.SIGTERM)
        if time.monotonic() > deadline:
            _send(living, signal.SIGKILL)
        time.sleep(0.01)
    return first if first >= 0 else 256 + first


def _send(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def _exit_codes(processes: set[int]) -> Iterator[int]:
    """Of those that have ended, which are taken out of the set."""
    for process in tuple(processes):
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            processes.discard(process)
            yield os.waitstatus_to_exitcode(status)
