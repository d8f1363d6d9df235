"""What a rank knows of the others that it waits for: signs of life in a real store."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from torch.distributed import Store, TCPStore

from inceptionctl.distributed.heartbeat import BEATS_OF_SILENCE, Heartbeat, State
from inceptionctl.distributed.local import free_port
from inceptionctl.distributed.rendezvous import key_of, sign_of_life
from inceptionctl.distributed.world import World

ME = World(0, 3, 0, 3, "127.0.0.1", 29500)
TIMEOUT = 8.0
PAUSE = TIMEOUT / 20


@pytest.fixture
def store() -> Store:
    store = TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    for rank in range(ME.size):
        store.set(key_of(rank), sign_of_life(0, 0, "starts", 0.0))
    return store


@pytest.fixture
def heartbeat(store: Store) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(ME, TIMEOUT)
    heartbeat.join(store)
    yield heartbeat
    heartbeat.end()


def stand(heartbeat: Heartbeat, store: Store, others: Callable[[int], dict[int, tuple[int, str]]], said: str) -> str:
    """Stand still in step 8 while the others give their signs, until what is missed holds some words."""
    heartbeat.enter(State.TRAINS, 7)
    pause = threading.Event()
    for beat in range(1, int(8 * BEATS_OF_SILENCE)):
        for rank, (step, doing) in others(beat).items():
            store.set(key_of(rank), sign_of_life(beat, step, doing, 3.0))
        pause.wait(PAUSE / 2)
        if said in heartbeat.missed():
            break
    return heartbeat.missed()


def test_a_silent_rank_is_named_before_one_that_is_behind(heartbeat: Heartbeat, store: Store) -> None:
    missed = stand(heartbeat, store, lambda _: {2: (6, "trains")}, "no sign of rank 1")
    assert missed.startswith("no sign of rank 1 (") and "rank 2" not in missed
    assert heartbeat.stands_for > BEATS_OF_SILENCE * PAUSE


def test_a_rank_that_lives_but_is_behind_is_named_with_what_it_is_at(heartbeat: Heartbeat, store: Store) -> None:
    missed = stand(heartbeat, store, lambda _: {1: (7, "trains"), 2: (7, "reads images")}, "reads images")
    assert "rank 2 (" in missed and "reads images at step 8, for 3 s" in missed and "rank 1" not in missed


def test_where_all_are_at_the_same_place_nobody_is_blamed(heartbeat: Heartbeat, store: Store) -> None:
    assert "all others give signs of life" in stand(
        heartbeat, store, lambda _: {1: (7, "trains"), 2: (7, "trains")}, "signs of"
    )


def test_what_a_rank_does_is_told_and_taken_back(heartbeat: Heartbeat, store: Store) -> None:
    heartbeat.enter(State.TRAINS, 3)
    with heartbeat.during(State.READS_IMAGES):
        wait_until_told(store, '"step": 3, "doing": "reads images"')
    wait_until_told(store, '"step": 3, "doing": "trains"')


def wait_until_told(store: Store, words: str) -> None:
    pause = threading.Event()
    for _ in range(100):
        if words in store.get(key_of(0)).decode():
            return
        pause.wait(PAUSE / 4)
    raise AssertionError(store.get(key_of(0)))
