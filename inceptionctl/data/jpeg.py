"""What decoders disagree about in a JPEG, seen and mended in its bytes: so that nvJPEG's pixels are libjpeg's. Standard library only."""

from __future__ import annotations

from typing import Any

_START, _END = 0xD8, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and RST0 to RST7.
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))


def mend_gray(image: Any) -> None:
    """Make the sampling factors of a gray JPEG (a writable buffer of bytes) 1 x 1, in place.

    With one component they mean nothing (ITU-T T.81, A.2.2: its blocks come row by row), and libjpeg passes over them. nvJPEG of CUDA 13
    orders the blocks by them: such images come out scrambled (seen on an H200; docs/gpu.md).
    """
    data = memoryview(image)
    place = _frame(data)
    if place is not None and data[place + 9] == 1:
        data[place + 11] = 0x11


def may_be_cut(image: Any) -> bool:
    """Whether bytes begin as a JPEG and do not end as one. A CPU's decoder refuses what has been cut short, a GPU's fills in gray."""
    data = memoryview(image)
    return len(data) > 3 and data[0] == 0xFF and data[1] == _START and (data[-2], data[-1]) != (0xFF, _END)


def _frame(data: memoryview) -> int | None:
    """Where the header of the frame begins, with its marker; None where there is no whole one before the first scan."""
    place = 2
    if len(data) < 4 or data[0] != 0xFF or data[1] != _START:
        return None
    while place + 12 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            return place
        if marker == 0xFF:  # filled up
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in (0xDA, _END):
            return None
        else:
            place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None
