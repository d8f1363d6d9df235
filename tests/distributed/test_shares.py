"""What each of several trainings at once gets of a machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from inceptionctl.cores import cores_by_place, usable_cores
from inceptionctl.distributed import local
from inceptionctl.distributed.shares import Share, shares
from inceptionctl.distributed.stage import Steps
from inceptionctl.errors import EnvironmentFault, RecipeError

EIGHT = tuple("01234567")


def gpus_of(found: list[Share]) -> list[str]:
    return [",".join(share.gpus) for share in found]


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight GPUs, as far as can be seen without them."""
    monkeypatch.setattr(local, "visible_gpus", lambda: EIGHT)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [
        (None, None, list(EIGHT)),
        (None, 2, ["0,1", "2,3", "4,5", "6,7"]),
        (None, 3, ["0,1,2", "3,4,5"]),
        (2, None, ["0,1,2,3", "4,5,6,7"]),
        (3, None, ["0,1", "2,3", "4,5"]),
        (2, 1, ["0", "1"]),
        (1, None, [",".join(EIGHT)]),
        (10, None, [*EIGHT, "0", "1"]),  # small networks share
    ],
)
@pytest.mark.usefixtures("eight")
def test_gpus_are_divided(jobs: int | None, gpus: int | None, expected: list[str]) -> None:
    assert gpus_of(shares(jobs, gpus, None)) == expected


@pytest.mark.usefixtures("eight")
def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match="--jobs 9: this machine has 8 GPUs") as refused:
        shares(9, 1, None)
    assert refused.value.hint and "--jobs 8" in refused.value.hint
    with pytest.raises(EnvironmentFault, match="with 3 for each training"):
        shares(3, 3, None)
    with pytest.raises(EnvironmentFault, match="only 8 GPUs here"):
        shares(None, 9, None)
    with pytest.raises(RecipeError, match="exclude each other"):
        shares(2, 1, 1)


def test_gpus_have_the_names_that_the_user_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a,GPU-3b")
    monkeypatch.setattr(local, "visible_gpus", lambda: ("GPU-8a", "GPU-3b"))
    assert gpus_of(shares(None, None, None)) == ["GPU-8a", "GPU-3b"]
    # CUDA shows a process the first slice alone.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1, MIG-2")
    monkeypatch.setattr(local, "visible_gpus", lambda: ("MIG-1",))
    assert gpus_of(shares(None, None, None)) == ["MIG-1", "MIG-2"]


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(cores_by_place()) == sorted(os.sched_getaffinity(0))
    assert shares(None, None, 1) == shares(1, None, None if local.visible_gpus() else 9) == [Share()]
    with pytest.raises(EnvironmentFault, match=r"--jobs 1000: this machine has \d+ cores, with 1 for each"):
        shares(1000, None, 1)
    monkeypatch.setattr("inceptionctl.distributed.shares.cores_by_place", lambda: [0, 4, 1, 5, 2, 6, 3, 7])
    monkeypatch.setattr("inceptionctl.distributed.shares.usable_cores", lambda: 8)
    assert [share.cores for share in shares(3, None, 2)] == [(0, 4), (1, 5, 2), (6, 3, 7)]
    with pytest.raises(EnvironmentFault, match="--jobs 3: this machine has 8 cores, with 3 for each"):
        shares(3, None, 3)


def test_a_step_is_born_on_its_share(tmp_path: Path) -> None:
    core, log = cores_by_place()[-1], tmp_path / "log"
    before = os.sched_getaffinity(0)
    with Steps() as steps:
        step = steps.start(["recipes", "list"], Share(("GPU-8a", "GPU-3b"), (core,)), log)
        born = psutil.Process(step.pid)
        while not (environment := born.environ()):  # for a moment after exec there is none yet
            time.sleep(0.01)
        assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-8a,GPU-3b" and born.cpu_affinity() == [core]
        assert steps.wait() == (step, 0)
    assert os.sched_getaffinity(0) == before and usable_cores() >= 1
    assert "quickstart" in log.read_text()
