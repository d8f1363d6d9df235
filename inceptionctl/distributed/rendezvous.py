"""Where the ranks of a job meet before they connect: a store of keys that rank 0 holds, or torchrun's agent."""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from inceptionctl import console
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault

# After so long rank 0 says whom it waits for.
FIRST_WAIT = timedelta(seconds=20)


def meet(world: World, timeout: timedelta, device: str) -> Store:
    """Wait for all ranks to sign in; the store, with a sign of life of each (distributed/heartbeat.py). `device` is this one's: cpu or cuda.

    Raises EnvironmentFault that names those who do not come in time, or have another kind of device, and torch's DistError where there
    is no way to the store.
    """
    server = TCPStore(
        world.master_address,
        world.master_port,
        is_master=world.rank == 0 and not is_held_by_torchrun(),
        timeout=timeout,
        wait_for_workers=False,
        # The process group, whose way to the store is its own, then finds the server that is here already.
        multi_tenant=True,
    )
    # torchrun's store outlives a failed attempt.
    store = PrefixStore(f"inceptionctl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", server)
    # First, so that it is there for all who find the sign.
    store.set(f"device/{world.rank}", f"{device} {socket.gethostname()}")
    store.set(key_of(world.rank), sign_of_life(0, 0, "starts", 0.0))
    keys = [key_of(rank) for rank in range(world.size)]
    if not _came(store, keys, min(timeout, FIRST_WAIT)) and timeout > FIRST_WAIT:
        if world.rank == 0:
            place = f"{world.master_address}:{world.master_port}"
            console.say(f"waiting at {place} for {_missing(store, keys)}, {timeout.total_seconds():g} s at most")
        _came(store, keys, timeout - FIRST_WAIT)
    missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
    if missing:
        who = f"{_missing(store, keys)} {'has' if len(missing) == 1 else 'have'}"
        raise EnvironmentFault(
            f"{who} not come to {world.master_address}:{world.master_port} within {timeout.total_seconds():g} s"
            f" ({world.size - len(missing)} of {world.size} are there)",
            "see that every rank was started, and that its host reaches this address",
        )
    _check_devices(store, world)
    return store


def _came(store: Store, keys: list[str], timeout: timedelta) -> bool:
    try:
        store.wait(keys, timeout)
    except dist.DistStoreError:
        return False
    return True


def _missing(store: Store, keys: list[str]) -> str:
    missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
    return f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(missing)}"


def _check_devices(store: Store, world: World) -> None:
    """A rank that finds no GPU would take the CPU and gloo, and wait for those that have taken NCCL until the time is up."""
    told = [text.decode().split(" ", 1) for text in store.multi_get([f"device/{rank}" for rank in range(world.size)])]
    without = [f"rank {rank} ({host})" for rank, (device, host) in enumerate(told) if device == "cpu"]
    if 0 < len(without) < world.size:
        more = f" and {len(without) - 4} more" if len(without) > 4 else ""
        raise EnvironmentFault(
            f"no GPU for {', '.join(without[:4])}{more}, while the other ranks have one",
            "`inceptionctl doctor` on that host says why; without that host, or with DS_ACCELERATOR=cpu everywhere, the run can continue",
        )


def choose_interface(world: World) -> None:
    """Let gloo listen on the network by which this host reaches the meeting place, unless GLOO_SOCKET_IFNAME names one.

    By itself it takes the address that the host's own name stands for, which is often a loopback one (Debian's 127.0.1.1): the ranks of
    other hosts would look for it among themselves.
    """
    if world.size == world.local_size or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        family, kind, _, _, place = socket.getaddrinfo(world.master_address, world.master_port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing: the kernel only looks for the way
            own = probe.getsockname()[0]
    except OSError:
        return  # the ranks will not meet either, and say so
    for name, addresses in psutil.net_if_addrs().items():
        if name != "lo" and any(address.address == own for address in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name


def is_held_by_torchrun() -> bool:
    """Whether the agent of torchrun holds the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def key_of(rank: int) -> str:
    """Where the sign of life of a rank is kept."""
    return f"sign/{rank}"


def sign_of_life(beats: int, step: int, doing: str, seconds: float) -> str:
    """What a rank says of itself: that it is there, and for how long at what."""
    said = {"beats": beats, "step": step, "doing": doing, "for": seconds}
    return json.dumps({**said, "host": socket.gethostname(), "process": os.getpid()})
