"""What each of several trainings at once gets of this machine: GPUs of its own, and its part of the cores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

from inceptionctl.cores import cores_by_place, usable_cores
from inceptionctl.distributed.local import choose_ranks
from inceptionctl.errors import EnvironmentFault


@dataclass(frozen=True)
class Share:
    """A part of this machine; by default all that this process may use."""

    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES spells them."""
    cores: tuple[int, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What a process on this share is born with, besides the affinity."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}

    @property
    def in_words(self) -> str:
        """For messages."""
        what, names = ("GPU", self.gpus) if self.gpus else ("core", tuple(map(str, self.cores)))
        return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def shares(jobs: int | None, gpus: int | None, cpu_ranks: int | None) -> list[Share]:
    """One share for each of `jobs` trainings at once, which have `gpus` or `cpu_ranks` ranks each.

    By default one training per GPU, or per `gpus` GPUs, and one on a machine without. `jobs` alone divides the GPUs evenly, and of more jobs
    than GPUs several share one, which small networks do not fill.
    Raises EnvironmentFault where the machine has not enough for them.
    """
    ranks = choose_ranks(gpus, cpu_ranks)
    if ranks.on_cpu:
        jobs, most = jobs or 1, usable_cores() // (cpu_ranks or 1)
        if jobs > max(1, most):  # one training may have more ranks than there are cores, as in `train`
            raise _too_many(jobs, most, f"{usable_cores()} cores", f"{cpu_ranks or 1} for each training")
        return [Share(cores=cores) for cores in _parts(jobs)]
    here = _all_gpus()
    each = gpus or (max(1, len(here) // jobs) if jobs else 1)
    most = len(here) // each
    jobs = jobs or most
    if jobs > most and gpus:
        raise _too_many(jobs, most, f"{len(here)} GPUs", f"{each} for each training")
    starts = [place % most * each for place in range(jobs)]
    return [Share(here[start : start + each], cores) for start, cores in zip(starts, _parts(jobs), strict=True)]


def _too_many(jobs: int, most: int, found: str, each: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"--jobs {jobs}: this machine has {found}, with {each}", f"--jobs {most}, or fewer ranks" if most else "fewer ranks"
    )


def _all_gpus() -> tuple[str, ...]:
    """Of MIG slices those of CUDA_VISIBLE_DEVICES: CUDA shows a process one of them only."""
    listed = tuple(item.strip() for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip())
    return listed if listed and all(item.startswith("MIG-") for item in listed) else choose_ranks(None, None).devices


def _parts(jobs: int) -> list[tuple[int, ...]]:
    """The cores in `jobs` parts, which decide how many threads a training starts. One job takes all, and so do more jobs than cores."""
    # Part k goes to the k-th GPU: machines number GPUs by socket too.
    cores = cores_by_place()[: usable_cores()]
    if jobs == 1 or jobs > len(cores):
        return [()] * jobs
    ends = [place * len(cores) // jobs for place in range(jobs + 1)]
    return [tuple(cores[first:last]) for first, last in pairwise(ends)]
