"""One rank among the others: from joining them until leaving in order. What trainings, evaluations, benches and `doctor` run in."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from inceptionctl import console
from inceptionctl.cores import usable_cores
from inceptionctl.distributed import process_group
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.local import NO_GPU_IN_SPITE_OF_DRIVER, has_driver
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault, LostRankError, RelayedError, ResumeLater

T = TypeVar("T")

SECONDS_FOR_THE_FIRST_FAILURE = 4.0


@dataclass(frozen=True)
class Machine:
    """A device and the number of CPU threads that this process may use."""

    device: torch.device
    num_threads: int


@dataclass(frozen=True)
class Session:
    """This rank's part of a job."""

    world: World
    machine: Machine
    heartbeat: Heartbeat

    @property
    def device(self) -> torch.device:
        """The rank's GPU, or the CPU."""
        return self.machine.device

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Do something on rank 0 alone and give its JSON-like result to every rank; its error ends all of them."""
        return process_group.on_rank_zero(self.world, self.device, work)

    def meet_all(self) -> None:
        """Wait until every rank has come here."""
        process_group.meet_all(self.world, self.device)


@contextlib.contextmanager
def session(
    world: World, timeout_seconds: float = 600.0, *, ends_with: Callable[[int], None] = lambda _: None
) -> Iterator[Session]:
    """Claim this rank's device, join the others, and leave the process group at the end, unless an error has left them in a collective call.

    A collective call waits for `timeout_seconds` at most. `ends_with` is told the exit code as soon as it is known that the rank ends.
    Raises EnvironmentFault when there is no GPU for the rank or the others do not come, LostRankError or HungRankError when one is lost.
    """
    machine = claim_machine(world)
    heartbeat = Heartbeat(world, timeout_seconds)
    process_group.connect(world, machine.device, timeout_seconds, heartbeat.join)
    try:
        with process_group.collective_errors(world, heartbeat):
            yield Session(world, machine, heartbeat)
    except ResumeLater as stopped:
        ends_with(stopped.exit_code)
        process_group.disconnect()
        raise
    except (RelayedError, LostRankError) as error:
        ends_with(error.exit_code)
        # The rank that failed first gives the job its message and exit code: the launcher looks once a second, in no order.
        time.sleep(SECONDS_FOR_THE_FIRST_FAILURE)
        raise
    finally:
        heartbeat.end()
    process_group.disconnect()


def claim_machine(world: World) -> Machine:
    """Take this rank's GPU, or its share of the CPU. Raises EnvironmentFault when there are more local ranks than GPUs."""
    cores = _cores_of_this_rank(world)
    # Of a rank on a GPU too: each would start as many threads as the machine has cores.
    torch.set_num_threads(_wished_threads() or cores)
    # The command that starts ranks on the CPU says so: on a machine with GPUs DeepSpeed's launcher would show them to us.
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return Machine(torch.device("cpu"), cores)
    if not torch.cuda.is_available():
        if world.rank == 0 and has_driver():
            console.warn(NO_GPU_IN_SPITE_OF_DRIVER, "`inceptionctl doctor` says why; under srun ask for GPUs (--gpus-per-node)")
        return Machine(torch.device("cpu"), cores)
    # srun --gpus-per-task shows each rank one GPU, which is number 0 for it whatever its local rank.
    index = 0 if torch.cuda.device_count() == 1 else world.local_rank
    if index >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"local rank {world.local_rank} has no GPU: {torch.cuda.device_count()} visible",
            "start one rank a GPU, or set CUDA_VISIBLE_DEVICES",
        )
    torch.cuda.set_device(index)
    return Machine(torch.device("cuda", index), cores)


def _wished_threads() -> int | None:
    """OMP_NUM_THREADS, which the user or a launcher has set; on a machine shared with other jobs fewer threads can be faster."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdigit() and int(wish) > 0 else None


def _cores_of_this_rank(world: World) -> int:
    bound_by_slurm = "SLURM_PROCID" in os.environ and usable_cores() < (os.cpu_count() or 1)
    # srun has given this task cores of its own; otherwise the ranks of a machine share what all of them see.
    return usable_cores() if bound_by_slurm else max(1, usable_cores() // world.local_size)
