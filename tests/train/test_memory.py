"""What rows of metrics say of memory."""

import resource

import pytest
import torch

from inceptionctl.train.job import PeakMemory


def test_a_cpus_is_the_most_that_the_process_has_had_of_the_host() -> None:
    before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ballast = torch.ones(20_000_000)
    found = PeakMemory(torch.device("cpu")).numbers()
    assert found.keys() == {"peak_memory_bytes"}
    assert (
        max(before, ballast.nbytes) <= found["peak_memory_bytes"] <= 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


def test_a_gpus_is_the_most_taken_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands in for a card on which others come and go; a real one is in test_gpu.py.
    free = iter((70, 50, 60))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free), 80))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    memory = PeakMemory(torch.device("cuda", 1))
    assert [memory.numbers()["peak_memory_bytes"] for _ in range(3)] == [10, 30, 30]
