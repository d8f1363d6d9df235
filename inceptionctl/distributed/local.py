"""Turn one command into N ranks on this machine, with DeepSpeed's launcher."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from inceptionctl.cores import usable_cores
from inceptionctl.distributed.signals import PIPE_OF_COMMAND, Requests, blocked, heard, mute_lost_terminal
from inceptionctl.errors import EnvironmentFault, RecipeError, ResumeLater

# glibc hands large freed blocks back to the kernel and asks for them again every step; keeping them is 10 to 25% of a CPU step.
CPU_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}

# What NVIDIA's driver shows; WSL has the last.
DRIVER_NODES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
NO_GPU_IN_SPITE_OF_DRIVER = "there is an NVIDIA driver here, but torch finds no GPU: continuing on the CPU"

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 30.0
ENDED = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}


@dataclass(frozen=True)
class LocalRanks:
    """What to start here: `devices` are GPU ids for GPU ranks, or rank numbers when `on_cpu`."""

    devices: tuple[str, ...]
    on_cpu: bool

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.devices)


def choose_ranks(gpus: int | None, cpu_ranks: int | None) -> LocalRanks:
    """All GPUs of this machine, `gpus` of them, or `cpu_ranks` processes on its CPU (one where there is no GPU).

    Raises EnvironmentFault when fewer GPUs are there than asked for.
    """
    if gpus is not None and cpu_ranks is not None:
        raise RecipeError("--gpus and --cpu-ranks exclude each other", "give one of the two")
    if cpu_ranks is not None:
        return LocalRanks(tuple(str(rank) for rank in range(cpu_ranks)), on_cpu=True)
    visible = visible_gpus()
    if gpus is None:
        return LocalRanks(visible, on_cpu=False) if visible else LocalRanks(("0",), on_cpu=True)
    if gpus > len(visible):
        found = "no GPU" if not visible else f"only {len(visible)} GPU{'s' if len(visible) > 1 else ''}"
        raise EnvironmentFault(
            f"--gpus {gpus}: {found} here", "`inceptionctl doctor` shows what is found; --cpu-ranks 1 takes the CPU"
        )
    return LocalRanks(visible[:gpus], on_cpu=False)


def has_driver() -> bool:
    """Whether NVIDIA's driver is here."""
    return any(Path(node).exists() for node in DRIVER_NODES)


def visible_gpus() -> tuple[str, ...]:
    """Ids of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them. Imports torch only where a driver is."""
    if not has_driver():
        return ()
    import torch

    count = torch.cuda.device_count()
    listed = [item.strip() for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip()]
    return tuple(listed[:count]) if listed else tuple(str(index) for index in range(count))


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Raise EnvironmentFault when somebody listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise EnvironmentFault(
                f"port {port} cannot be used: {error.strerror}", "leave --port out to take a free one, or name another"
            ) from None


def launch(ranks: LocalRanks, arguments: Sequence[str], port: int | None) -> int:
    """Start `inceptionctl ARGUMENTS` once a rank and wait. Returns the exit code of the first rank that failed, else 0.

    A signal is passed on to the ranks, and 75 comes back when they have stopped in order; after a second one they are killed, and 130
    or 143 comes back. Raises ResumeLater when there was no rank yet, and EnvironmentFault when a rank was killed from outside.
    """
    if port is not None:
        check_port(port)
    command = _launcher_command(ranks, port or free_port(), arguments)
    # DeepSpeed's launcher ends its ranks on SIGINT and SIGTERM, and kills them 30 seconds later whatever they are saving. A signal
    # often goes to all processes of a terminal or job, so it is born with them blocked. So are the ranks; they unblock them.
    with blocked():
        # The ranks read from our pipe, on which nothing ever comes: its end tells them that this command has gone, whatever ended it.
        process = subprocess.Popen(command, env=_environment(ranks), stdin=subprocess.PIPE)
        signals = _Forwarding(process)
    code = _wait(process, ranks.size)
    if signals.exit_code is not None:
        return signals.exit_code
    if signals.came_first is not None:
        begins = "the training" if arguments[0] == "train" else f"`{arguments[0]}`"
        raise ResumeLater(f"stopped by {signals.came_first} before {begins} began: nothing is lost")
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return code  # a rank that was asked twice
    if code < 0:
        raise EnvironmentFault(
            f"DeepSpeed's launcher was ended by {signal.Signals(-code).name}, so the ranks have saved and left",
            "rerun the same command to resume",
        )
    if code == 256 - signal.SIGABRT:
        raise EnvironmentFault(
            "a rank was ended by SIGABRT: NCCL ends one so that has waited in vain for others, and says it above",
            "rerun the same command to resume; train.collective_timeout_seconds says how long a rank waits",
        )
    if code > 128:
        number = 256 - code if code > 160 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        raise EnvironmentFault(
            f"a rank was ended by {name}",
            "the kernel kills for memory with SIGKILL (`dmesg`); rerun the same command to resume",
        )
    return code


def _wait(process: subprocess.Popen[bytes], size: int) -> int:
    """Wait for DeepSpeed's launcher; its exit code. No rank is left behind.

    When one has failed, the launcher sends SIGTERM to the others and waits 30 seconds for them. A stopped one would take it only when
    somebody lets it go on, so that is killed here.
    """
    launcher, ranks = psutil.Process(process.pid), list[psutil.Process]()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=SECONDS_BETWEEN_LOOKS)
            break
        with contextlib.suppress(psutil.Error):
            if len(ranks) < size:
                ranks = [child for child in launcher.children() if _is_rank(child)]
        states = [_state(rank) for rank in ranks]
        if psutil.STATUS_DEAD in states:  # no zombie: the launcher has taken its exit code, which is the command's
            for rank, state in zip(ranks, states, strict=True):
                if state == psutil.STATUS_STOPPED:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        rank.kill()
    if process.stdin:
        process.stdin.close()  # where the launcher was killed, the ranks save and leave now
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while any(_state(rank) not in ENDED for rank in ranks):
        if time.monotonic() > deadline:
            for rank in ranks:
                with contextlib.suppress(psutil.NoSuchProcess):
                    rank.kill()
        time.sleep(0.1)
    return code


def _state(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.status())
    return str(psutil.STATUS_DEAD)


def _launcher_command(ranks: LocalRanks, port: int, arguments: Sequence[str]) -> list[str]:
    devices = [device if not device.isdigit() else int(device) for device in ranks.devices]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    launcher = [sys.executable, "-P", "-m", "deepspeed.launcher.launch", f"--world_info={world}"]
    launcher += ["--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}", "--log_level=critical", "--no_local_rank"]
    # -P keeps the working directory off sys.path, where a user's own `pipelines` or `recipes` folder would shadow ours.
    return [*launcher, "--no_python", sys.executable, "-P", "-m", "inceptionctl", *arguments]


def _environment(ranks: LocalRanks) -> dict[str, str]:
    environment = dict(os.environ) | {PIPE_OF_COMMAND: "1"}
    if ranks.on_cpu:
        threads = max(1, usable_cores() // ranks.size)
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        for name, value in {**CPU_ALLOCATOR, "OMP_NUM_THREADS": str(threads)}.items():
            environment.setdefault(name, value)
    return environment


class _Forwarding:
    """From now on signals to this process go to the ranks that a launcher has started.

    Always as SIGUSR1, which may be repeated: on Ctrl-C the ranks of a terminal get SIGINT as well, and that is one request.
    `exit_code` is set when the ranks were not left to choose theirs, `came_first` to a signal that came before there was any.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.exit_code: int | None = None
        self.came_first: str | None = None
        self._launcher = psutil.Process(process.pid)
        self._requests = Requests()
        for number in heard():
            signal.signal(number, self._take)

    def _take(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            mute_lost_terminal()
        second = self._requests.is_second(number)
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            self._launcher.suspend()  # else it might start a rank just now, and that would live on
            while (state := self._launcher.status()) != psutil.STATUS_STOPPED:
                if state == psutil.STATUS_ZOMBIE:
                    return  # it has ended by itself
                time.sleep(0.001)
            children = self._launcher.children()
            ranks = [child for child in children if _is_rank(child)]
            if ranks and not second:
                for rank in ranks:
                    rank.send_signal(signal.SIGUSR1)
                self._launcher.resume()
                return
            # Without ranks yet, there is nothing to wait for: the launcher alone takes seconds to start.
            if second:
                self.exit_code = 128 + number
            else:
                self.came_first = self._requests.first
            for process in (self._launcher, *children):
                process.kill()
            # Whoever goes on at once must find ports, memory and the run's lock free.
            psutil.wait_procs(children, timeout=2)


def _is_rank(child: psutil.Process) -> bool:
    """Not one of the compilers and the like that DeepSpeed asks for their version."""
    with contextlib.suppress(psutil.Error):
        return "RANK" in child.environ()
    return False
