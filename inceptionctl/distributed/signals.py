"""Signals that ask a training to stop: SIGTERM, SIGINT, SIGUSR1 and SIGHUP, in a rank and in the command that started the ranks."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator

from inceptionctl.errors import ResumeLater

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# The kernel, a dying shell and its session may all tell of a lost terminal, and Slurm warns as often as it likes: nobody insists.
REPEATED = (signal.SIGUSR1, signal.SIGHUP)
# Launchers repeat a signal: `timeout` and torchrun send it to a child that has got it with its process group already.
SECONDS_OF_ONE_REQUEST = 1.0
# Set for ranks whose standard input is a pipe that ends with the command which started them (distributed/local.py, stage.py).
PIPE_OF_COMMAND = "INCEPTIONCTL_PIPE_OF_COMMAND"


class Requests:
    """Tells a second request from the first one told twice.

    The first signal asks for a stop. Another SIGINT or SIGTERM, a second or more after the first of the two, asks to leave at once;
    SIGUSR1 may come again and again: Slurm sends it ahead of a time limit, whose SIGTERM must not cut short the save that it began. So
    may SIGHUP.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        self._insisted: float | None = None

    def is_second(self, number: int) -> bool:
        """Note a signal; whether it asks to leave at once."""
        now = time.monotonic()
        self.first = self.first or signal.Signals(number).name
        if number in REPEATED:
            return False
        if self._insisted is None:
            self._insisted = now
            return False
        return now - self._insisted >= SECONDS_OF_ONE_REQUEST


class RankSignals:
    """The signals of one rank, read in a thread: Python's own handlers would wait while the main thread is in a collective call.

    Until `training_begins` there is nothing to save, and any signal ends the process with code 75; so it does after `ends_with`, with
    that code. In between `requested` names the first signal, which the loop looks at, and a second one ends the process with 128 + n.

    The end of the command that started the ranks, which SIGKILL keeps from passing anything on, is a request like SIGUSR1.
    """

    def __init__(self, speaks: bool) -> None:
        self._speaks = speaks
        self._exit_code: int | None = ResumeLater.exit_code
        self._requests = Requests()
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        if PIPE_OF_COMMAND in os.environ:
            threading.Thread(target=self._outlive, daemon=True).start()
        for number in heard():
            signal.signal(number, lambda *_: None)  # a handler in Python is what makes Python write to the pipe
        # When the interpreter ends, it hands signals back to the system, whose answer would be the death of a rank that has finished.
        atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, ASKING)
        # Our own launcher has blocked them from the birth of the process on: those that came meanwhile are delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)

    @property
    def requested(self) -> str | None:
        """Name of the first signal that has come to this rank; SIGUSR1 when the command that started it has passed one on."""
        return self._requests.first

    def training_begins(self) -> None:
        """From now on a signal waits for the end of a step."""
        self._exit_code = None

    def ends_with(self, code: int) -> None:
        """There is nothing more to save: a signal may end the process, with the code that it would end with anyway."""
        self._exit_code = code

    def _listen(self, pipe: int) -> None:
        while True:
            for number in os.read(pipe, 64):
                if number in ASKING:
                    self._take(number)

    def _outlive(self) -> None:
        _wait_for_end_of_command()
        if self._speaks and self._exit_code is None:
            _say("the command that started the ranks has gone: they save and leave")
        self._take(signal.SIGUSR1)

    def _take(self, number: int) -> None:
        if number == signal.SIGHUP:
            mute_lost_terminal()
        second = self._requests.is_second(number)
        code = 128 + number if second else self._exit_code
        if code is None:
            return
        if self._speaks and code == ResumeLater.exit_code and not second:
            _say("stopped by a signal before the training began: nothing is lost")
        elif self._speaks and second:
            _say("second signal: exiting without saving; rerun the same command to resume from the last checkpoint")
        # Not sys.exit: the main thread may be in a call that does not come back.
        os._exit(code)


def heard() -> tuple[signal.Signals, ...]:
    """The asking signals, without SIGHUP where it is ignored: by `nohup`, which means that the work outlives its terminal."""
    return tuple(number for number in ASKING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN)


def mute_lost_terminal() -> None:
    """Let what is written to a terminal that has gone go nowhere: an error of it must not keep a training from being saved."""
    for descriptor in (0, 1, 2):
        try:
            os.ttyname(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:  # ENOTTY is of a file or a pipe
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _wait_for_end_of_command() -> None:
    while os.read(0, 64):
        pass


def _leave_after_command() -> None:
    _wait_for_end_of_command()
    os.kill(os.getpid(), signal.SIGUSR1)


def _say(message: str) -> None:
    # Not the console, whose lock the main thread may hold.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{message}\n".encode())


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Processes started here are born with the asking signals blocked; what comes meanwhile is delivered at the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


@contextlib.contextmanager
def stoppable(lost: str = "before the training began: nothing is lost") -> Iterator[None]:
    """Work that a signal ends with ResumeLater, which says what is `lost` by it; a second one ends the process at once.

    So does the end of the command that has started this process, as one of several ranks or as a step of its own.

    SIGINT gets a handler of its own: a shell starts a background job with SIGINT ignored, and Python then raises nothing on it.
    """
    requests = Requests()

    def interrupt(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            mute_lost_terminal()
        is_first = requests.first is None
        if requests.is_second(number):
            os._exit(128 + number)
        # One told twice must not interrupt the clearing up, which waits for threads.
        if is_first:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in heard()}
    if PIPE_OF_COMMAND in os.environ:
        threading.Thread(target=_leave_after_command, daemon=True).start()
    # A rank is born with them blocked by the command that starts it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    try:
        yield
    except KeyboardInterrupt:
        raise ResumeLater(f"stopped by {requests.first or 'SIGINT'} {lost}", "give the same command again") from None
    finally:
        if requests.first is None:
            for number, handler in previous.items():
                signal.signal(number, handler)
