"""How much processor time the control groups grant (a container's --cpus limits the time and leaves all cores visible), and threads for it."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier


def usable_cores() -> int:
    """Cores that this process may keep busy: those of its affinity, less where a container's time limit is lower."""
    allowed = len(os.sched_getaffinity(0))
    granted = cgroup_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return allowed if granted is None else max(1, min(allowed, int(granted)))


def cores_by_place() -> list[int]:
    """Numbers of the cores of this process's affinity: by socket, and the threads of one physical core side by side."""

    def place(core: int) -> tuple[int, ...]:
        folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
        found = [0, 0]
        with contextlib.suppress(OSError, ValueError):
            found = [int((folder / name).read_text(encoding="utf-8")) for name in ("physical_package_id", "core_id")]
        return (*found, core)

    return sorted(os.sched_getaffinity(0), key=place)


def cgroup_cores(memberships: Path, mount: Path) -> float | None:
    """Cores' worth of time that the control groups of this process grant (version 2 or 1); None without a limit."""
    limits = []
    for line in memberships.read_text(encoding="utf-8").splitlines() if memberships.exists() else ():
        number, _, rest = line.partition(":")
        controllers, _, inner = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        root = mount if number == "0" else mount / "cpu"
        # A limit of any group above holds too. In a container the inner path may not exist: its own group is the mount then.
        group = root / inner.strip("/")
        for folder in (group, *group.parents):
            limits.append(_quota(folder))
            if folder == root:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            return int(quota) / int(period)
    return None


def single_threaded(count: int, name: str) -> ThreadPoolExecutor:
    """Threads in which torch's operators start no others: those would spin for work beside the training, several for each thread."""
    import torch

    others = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_stay_single_threaded)
    started = Barrier(count)
    for thread in [pool.submit(started.wait) for _ in range(count)]:
        thread.result()
    # What a thread is told becomes the beginning of all that come after it.
    torch.set_num_threads(others)
    return pool


def _stay_single_threaded() -> None:
    import torch

    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number of the process when it first asks, whatever it has set before
