"""Which rank this process is, read from the environment that torchrun, DeepSpeed's launcher or Slurm's srun set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from inceptionctl.distributed.signals import PIPE_OF_COMMAND
from inceptionctl.errors import EnvironmentFault, RecipeError


@dataclass(frozen=True)
class World:
    """One rank among `size`; `local_*` count within this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    master_address: str
    master_port: int


def world_from_environment(environment: Mapping[str, str] = os.environ) -> World | None:
    """The rank that a launcher made of this process, or None for an ordinary process.

    RANK and WORLD_SIZE (torchrun, DeepSpeed) come before Slurm's variables. A Slurm step of one task is an ordinary process:
    it starts the ranks of its machine by itself. Raises EnvironmentFault for an incomplete or contradictory environment.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _from_torch(environment)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return _from_slurm(environment)
    return None


def refuse_own_ranks(
    world: World | None, gpus: int | None, cpu_ranks: int | None, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise RecipeError where a process that is one rank already is asked to start ranks, unless a command of ours has started it."""
    option = "--gpus" if gpus is not None else "--cpu-ranks"
    if world is None or (gpus is None and cpu_ranks is None) or PIPE_OF_COMMAND in environment:
        return
    if not _is_slurm_task(environment):
        raise RecipeError(
            f"{option} starts ranks, and this is one already: RANK is {world.rank} and WORLD_SIZE {world.size}",
            f"leave {option} out, or start the ranks of this machine from a shell without RANK and WORLD_SIZE",
        )
    raise RecipeError(
        f"{option} starts ranks, and this is one already: task {world.rank} of a Slurm step of {world.size} tasks",
        f"leave {option} out where srun starts the command itself; {_IN_A_SHELL}",
    )


_IN_A_SHELL = "in a shell of `srun --pty`, ask for --ntasks=1, or write SLURM_STEP_NUM_TASKS=1 before the command"


def waits_in_a_shell(world: World | None, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Words and a hint for a task of `srun --pty`, whose other tasks come only where srun has started the command itself."""
    if world is None or world.size == 1 or "SLURM_PTY_PORT" not in environment or not _is_slurm_task(environment):
        return None
    return f"this is task {world.rank} of an interactive Slurm step of {world.size}: it waits for the others", _IN_A_SHELL


def _is_slurm_task(environment: Mapping[str, str]) -> bool:
    return not ("RANK" in environment and "WORLD_SIZE" in environment)


def _from_torch(environment: Mapping[str, str]) -> World:
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise EnvironmentFault(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}",
            "unset RANK to start the ranks of this machine, or use a launcher that sets all of them (torchrun, srun)",
        )
    size = _number(environment, "WORLD_SIZE")
    local_size = int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", size)))
    world = World(
        _number(environment, "RANK"),
        size,
        _number(environment, "LOCAL_RANK"),
        local_size,
        environment["MASTER_ADDR"],
        _number(environment, "MASTER_PORT"),
    )
    if not 0 <= world.rank < world.size:
        raise EnvironmentFault(f"RANK={world.rank} is not below WORLD_SIZE={world.size}", "correct the launcher's environment")
    return world


def _from_slurm(environment: Mapping[str, str]) -> World:
    job = _number(environment, "SLURM_JOB_ID")
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    tasks_here = environment.get("SLURM_STEP_TASKS_PER_NODE", str(size))
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    node = int(environment.get("SLURM_NODEID", "0"))
    return World(
        _number(environment, "SLURM_PROCID"),
        size,
        _number(environment, "SLURM_LOCALID"),
        expand_task_counts(tasks_here)[node],
        environment.get("MASTER_ADDR", first_host(nodes)),
        # Two jobs on one node must not meet: the port follows the job's number, outside the ephemeral range.
        int(environment.get("MASTER_PORT", 10000 + job % 20000)),
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        raise EnvironmentFault(
            f"{name}={environment.get(name)!r} is not a number", "correct the launcher's environment"
        ) from None


def first_host(nodes: str) -> str:
    """First name of a Slurm node list: 'gpu[07-09,12],cpu1' -> 'gpu07'. No scontrol: containers often lack it."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if not match:
        raise EnvironmentFault(f"cannot read the node list '{nodes}'", "set MASTER_ADDR to the first node's name")
    head, number, tail = match.groups()
    return head + (number or "") + (tail or "")


def expand_task_counts(text: str) -> list[int]:
    """Slurm's counts a node: '4(x2),3' -> [4, 4, 3]."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts
