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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inceptionctl.cores import usable_cores
from inceptionctl.errors import EnvironmentFault, RecipeError

# glibc hands large freed blocks back to the kernel and asks for them again every step; keeping them is 10 to 25% of a CPU step.
CPU_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


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
            f"--gpus {gpus}: {found} here", "`inceptionctl doctor` shows what is found; --cpu-ranks 1 trains on the CPU"
        )
    return LocalRanks(visible[:gpus], on_cpu=False)


def visible_gpus() -> tuple[str, ...]:
    """Ids of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them. Imports torch only where a driver is."""
    if not any(Path(node).exists() for node in ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")):
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

    Raises EnvironmentFault when a rank was killed from outside, and KeyboardInterrupt after the ranks ended on Ctrl-C.
    """
    if port is not None:
        check_port(port)
    command = _launcher_command(ranks, port or free_port(), arguments)
    with _forwarded(subprocess.Popen(command, env=_environment(ranks))) as process:
        code = process.wait()
    if code > 128 or code < 0:
        number = 256 - code if code > 160 else (code - 128 if code > 0 else -code)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        raise EnvironmentFault(
            f"a rank was ended by {name}",
            "the kernel kills for memory with SIGKILL (`dmesg`); the same command goes on where it was",
        )
    return code


def _launcher_command(ranks: LocalRanks, port: int, arguments: Sequence[str]) -> list[str]:
    devices = [device if not device.isdigit() else int(device) for device in ranks.devices]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    launcher = [sys.executable, "-P", "-m", "deepspeed.launcher.launch", f"--world_info={world}"]
    launcher += ["--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}", "--log_level=critical", "--no_local_rank"]
    # -P keeps the working directory off sys.path, where a user's own `pipelines` or `recipes` folder would shadow ours.
    return [*launcher, "--no_python", sys.executable, "-P", "-m", "inceptionctl", *arguments]


def _environment(ranks: LocalRanks) -> dict[str, str]:
    environment = dict(os.environ)
    if ranks.on_cpu:
        threads = max(1, usable_cores() // ranks.size)
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        for name, value in {**CPU_ALLOCATOR, "OMP_NUM_THREADS": str(threads)}.items():
            environment.setdefault(name, value)
    return environment


@contextlib.contextmanager
def _forwarded(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Let the launcher end its ranks on Ctrl-C or SIGTERM before we go, as if interrupted.

    SIGINT gets a handler of its own: a shell starts a background job with SIGINT ignored, and Python then raises nothing on it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield process
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
