"""The ranks' process group: joining it, work of rank 0 for all, and what the loss of a rank looks like. The only importer of DeepSpeed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from inceptionctl.console import JsonObject
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.rendezvous import choose_interface, meet
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault, InceptionctlError, LostRankError, RelayedError
from inceptionctl.gpu_faults import gpu_fault

T = TypeVar("T")


def connect(
    world: World, device: torch.device, timeout_seconds: float = 600.0, met: Callable[[Store], None] = lambda _: None
) -> None:
    """Join the process group: NCCL between GPUs, gloo between CPU ranks. `met` gets the ranks' store when all of them are there.

    A collective call then waits for `timeout_seconds` at most. Raises EnvironmentFault when the port is taken or the other ranks do not
    come within that time.
    """
    os.environ.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.size),
        # DeepSpeed takes the device number from here, and a rank that sees one GPU alone has number 0.
        LOCAL_RANK=str(world.local_rank if device.index is None else device.index),
        MASTER_ADDR=world.master_address,
        MASTER_PORT=str(world.master_port),
    )
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed = import_deepspeed()
    if device.type == "cpu":
        # A shared-memory operator for inference would be compiled here for half a minute at the first start; training uses none.
        # (`deepspeed.comm.torch` as an attribute is torch itself: the package imports it under that name.)
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    timeout, on_gpu = timedelta(seconds=timeout_seconds), device.type == "cuda"
    # NCCL's watchdog aborts the process without a word about the ranks: it comes after our own (distributed/heartbeat.py).
    patience = timeout + timedelta(seconds=30) if on_gpu else timeout
    # DeepSpeed averages gradients in a group of its own, which would wait for torch's half hour.
    sys.modules["deepspeed.comm.torch"].TorchBackend.new_group = lambda _, ranks: dist.new_group(ranks, timeout=patience)
    if not on_gpu:
        choose_interface(world)
    try:
        if world.size > 1:
            # Held until the process group has the same server: else that would end, and with it whoever has come to the group already.
            store = meet(world, timeout, device.type)
            met(store)
        deepspeed.init_distributed("nccl" if on_gpu else "gloo", timeout=patience, verbose=False)
    except (dist.DistError, RuntimeError) as error:
        # DeepSpeed binds the process group to the rank's GPU, so that NCCL connects the ranks here.
        raise gpu_fault(error, _named(world)) or _connection_fault(world, error) from None


def import_deepspeed() -> Any:
    """DeepSpeed, silent, and without what would change a training behind its back."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed are not the user's
        import deepspeed
        import deepspeed.comm.torch
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # DeepSpeed's forward switches autocast off where its own configuration does not ask for it (on GPUs, silently: it would train
    # in fp32). Autocast here is the loop's.
    sys.modules["deepspeed.runtime.engine"].autocast_if_enabled = lambda *_: contextlib.nullcontext()  # type: ignore[attr-defined]
    return deepspeed


def _connection_fault(world: World, error: Exception) -> EnvironmentFault:
    text = str(error)
    place = f"{world.master_address}:{world.master_port}"
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return EnvironmentFault(f"{place} is in use by another program", "set MASTER_PORT to a free port on the first node")
    if "connectFullMesh" in text:
        return EnvironmentFault(
            f"rank {world.rank} of {world.size} has found the others at {place}, but they do not reach each other: {text[:200]}",
            "name the network between the hosts with GLOO_SOCKET_IFNAME, the same or its own on each (`ip -br address` lists them)",
        )
    return EnvironmentFault(
        f"rank {world.rank} of {world.size} cannot join the others at {place}: {text.splitlines()[0][:200]}",
        "check MASTER_ADDR and MASTER_PORT, and that every rank was started",
    )


def disconnect() -> None:
    """Leave the process group, after a success: after an error the others may sit in a collective call, and this would wait."""
    if dist.is_initialized():
        dist.destroy_process_group()


def on_rank_zero(world: World, device: torch.device, work: Callable[[], T]) -> T:
    """Do something on rank 0 alone and give its JSON-like result to every rank; its error ends all of them."""
    answer: JsonObject = {}
    failure: InceptionctlError | None = None
    if world.rank == 0:
        try:
            answer = {"result": work()}
        except InceptionctlError as error:
            answer, failure = {"exit_code": error.exit_code}, error
    answer = _share(world, device, answer)
    if failure is not None:
        raise failure
    if "exit_code" in answer:
        raise RelayedError(answer["exit_code"])
    result: T = answer["result"]
    return result


def meet_all(world: World, device: torch.device) -> None:
    """Wait until every rank has come here."""
    if world.size > 1:
        count = torch.ones(1, device=device)
        dist.all_reduce(count)
        count.item()  # on a GPU the call alone waits for nobody


def _share(world: World, device: torch.device, value: JsonObject) -> JsonObject:
    if world.size == 1:
        return value
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([data.numel()], device=device)
    dist.broadcast(length, 0)
    if world.rank != 0:
        data = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    shared: JsonObject = json.loads(bytes(data.tolist()))
    return shared


# What gloo and NCCL say of a rank that has gone; NCCL's other errors are of this machine.
LOST = (
    "Connection closed by peer",
    "closed by remote peer",
    "Connection reset",
    "Connection refused",
    "Broken pipe",
    "Timed out",
    "gloo",
    "ncclRemoteError",
    "NCCL communicator was aborted",
)


@contextlib.contextmanager
def collective_errors(world: World, heartbeat: Heartbeat) -> Iterator[None]:
    """Word the error that a lost rank, or one that hangs, causes in the others, and the faults of this rank's GPU."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in LOST):
            # The first one that gives up closes its connections, which ends the calls of those who waited with it.
            if "Timed out" in text or heartbeat.has_waited_too_long():
                raise heartbeat.fault() from None
            raise LostRankError(
                f"rank {world.rank} lost another rank: {text.splitlines()[0][:160]}",
                "the message of the rank that failed first stands above; rerun the same command to resume from the last checkpoint",
            ) from None
        fault = gpu_fault(error, _named(world))
        if fault:
            raise fault from None
        raise


def _named(world: World) -> str:
    return f"rank {world.rank} ({socket.gethostname()})"
