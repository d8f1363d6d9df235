"""Waits of the host for the device, by the place in the code: what counts, what does not, and that nothing stays changed."""

import warnings

import pytest
import torch

from inceptionctl.bench.waits import STEPS, counted_waits, host_waits
from inceptionctl.data.loaders import Batch

# What torch says in its sync debug mode (c10/cuda/CUDAFunctions.cpp).
WARNING = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:1.)"


@pytest.fixture(autouse=True)
def nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)


def test_waits_are_counted_by_place_and_other_warnings_go_on() -> None:
    before = torch.cuda.synchronize, warnings.showwarning
    with pytest.warns(UserWarning, match="something else") as others, host_waits() as found:
        for _ in range(3):
            warnings.warn(WARNING, UserWarning, stacklevel=1)
        torch.cuda.synchronize()
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert sorted(found.values()) == [1, 3] and len(others) == 1
    assert all("test_waits.py:" in place for place in found)
    assert [place.startswith("torch.cuda.synchronize at ") for place, _ in found.most_common()] == [False, True]
    assert (torch.cuda.synchronize, warnings.showwarning) == before


def test_the_loops_steps_are_counted_and_the_meeting_before_is_not() -> None:
    found: dict = {}
    batch = Batch(torch.zeros(1), torch.zeros(1))
    for _ in counted_waits(iter([batch] * STEPS), lambda: torch.cuda.synchronize(), found):
        torch.cuda.synchronize()
        torch.cuda.synchronize()
    assert (found["steps"], found["per_step"]) == (STEPS, 2.0)
    assert sorted(found["places"].values()) == [1.0, 1.0]
