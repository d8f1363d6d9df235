"""Ranks that meet, in threads of one process, through a real store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from inceptionctl.distributed import rendezvous
from inceptionctl.distributed.local import free_port
from inceptionctl.distributed.rendezvous import key_of, meet
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault


def met(devices: tuple[str, ...]) -> list[object]:
    """What each rank gets: the store, or the error."""
    port, size = free_port(), len(devices)
    worlds = [World(rank, size, rank, size, "127.0.0.1", port) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        ranks = [pool.submit(meet, *pair) for pair in zip(worlds, [timedelta(seconds=60)] * size, devices, strict=True)]
    return [rank.exception() or rank.result() for rank in ranks]


def test_a_rank_without_a_gpu_is_named_before_anybody_waits_for_it() -> None:
    for error in met(("cuda", "cpu", "cuda")):
        assert isinstance(error, EnvironmentFault)
        assert error.message.startswith("no GPU for rank 1 (") and error.message.endswith("while the other ranks have one")


def test_who_is_missing_is_said_long_before_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "FIRST_WAIT", timedelta(seconds=0.2))
    world = World(0, 3, 0, 3, "127.0.0.1", free_port())
    with pytest.raises(EnvironmentFault, match=r"ranks 1, 2 have not come to .* within 2 s"):
        meet(world, timedelta(seconds=2), "cpu")
    assert f"waiting at 127.0.0.1:{world.master_port} for ranks 1, 2, 2 s at most" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ranks_of_one_kind_meet(device: str) -> None:
    for store in met((device, device)):
        assert store.check([key_of(0), key_of(1)])  # type: ignore[attr-defined]
