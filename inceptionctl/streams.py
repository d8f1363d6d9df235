"""stdout and stderr that end no command in a traceback: full disks, readers that have gone, closed descriptors, terminals of ASCII."""

from __future__ import annotations

import codecs
import io
import os
import sys

from inceptionctl.errors import EnvironmentFault

READER_GONE = 141
"""Exit code of a command whose reader has gone (`| head`), as if by SIGPIPE."""
_ESCAPING = "inceptionctl.escaping"


def prepare() -> None:
    """Replace this process's stdout and stderr. Called once, before anything is printed.

    Whatever a stream cannot spell is escaped. A result that cannot be written raises EnvironmentFault, or ends with READER_GONE; a message that
    cannot be is lost, since a training must not end for it.
    """
    _open_closed()
    codecs.register_error(_ESCAPING, _escaped)
    for name, kind in (("stdout", _Results), ("stderr", _Messages)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            vars(sys)[name] = vars(sys)[f"__{name}__"] = kind.instead_of(stream)


def _open_closed() -> None:
    # The next file to be opened would get the number, and what libraries print would go into it.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What cannot be spelt, as in Python's literals; bytes of a file name that are no UTF-8 as \\xNN."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    chars = error.object[error.start : error.end]
    return "".join(map(_spelt, chars)), error.end


def _spelt(char: str) -> str:
    return (
        f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else char.encode("ascii", "backslashreplace").decode()
    )


class _Stream(io.TextIOWrapper):
    @classmethod
    def instead_of(cls, stream: io.TextIOWrapper) -> _Stream:
        """A stream in place of another, which is of no more use."""
        encoding, line_buffering, write_through = stream.encoding, stream.line_buffering, stream.write_through
        return cls(stream.detach(), encoding, _ESCAPING, line_buffering=line_buffering, write_through=write_through)

    def write(self, text: str) -> int:
        if text == "":  # click asks so whether the stream takes text, and swallows what comes of it
            return 0
        try:
            return super().write(text)
        except OSError as fault:
            self._failed(fault)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as fault:
            self._failed(fault)

    def _failed(self, fault: OSError) -> None:
        raise NotImplementedError


class _Results(_Stream):
    def _failed(self, fault: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is still held back would fail once more at the end
        os.close(nowhere)
        if isinstance(fault, BrokenPipeError):
            raise SystemExit(READER_GONE) from None
        raise EnvironmentFault(
            f"cannot write standard output: {fault.strerror or fault}",
            "free some space, or send the output elsewhere; what the command does besides may be done",
        ) from None


class _Messages(_Stream):
    def _failed(self, fault: OSError) -> None:
        # Let go of what is held back, and try again with the next message: there may be room then.
        kept, nowhere = os.dup(self.fileno()), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        super(_Stream, self).flush()
        os.dup2(kept, self.fileno())
        os.close(kept)
        os.close(nowhere)
