"""Threads side by side on a CPU, each of which computes alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


def single_threaded(count: int, name: str) -> ThreadPoolExecutor:
    """Threads in which torch's operators start no others: those would spin for work beside the training, several for each thread."""
    others = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_stay_single_threaded)
    started = Barrier(count)
    for thread in [pool.submit(started.wait) for _ in range(count)]:
        thread.result()
    # What a thread is told becomes the beginning of all that come after it.
    torch.set_num_threads(others)
    return pool


def _stay_single_threaded() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number of the process when it first asks, whatever it has set before
