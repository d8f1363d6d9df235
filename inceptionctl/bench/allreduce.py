"""`bench allreduce`: the sum over ranks that averages gradients, by size, and the two numbers of a model of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from inceptionctl.bench.figures import Figure
from inceptionctl.distributed.world import World

SMALLEST, LARGEST = 4 << 10, 256 << 20
# A turn of a small one is many calls: the clock is read once for all of them.
SECONDS_OF_A_TURN, MAX_CALLS = 0.05, 100


def sizes_up_to(largest: int) -> list[int]:
    """Bytes from 4 KiB on, four times as many each."""
    sizes = [SMALLEST]
    while 4 * sizes[-1] <= largest:
        sizes.append(4 * sizes[-1])
    return sizes


def bench_allreduce(
    world: World, device: torch.device, sizes: Sequence[int], repeats: int
) -> tuple[list[Figure], dict[str, Any]]:
    """Figures of a sum of fp32 over all ranks for each size in bytes, taken in turn, and `alpha_s` and `bytes_per_s` (see `fit`).

    A collective call; the time of a call is that of the slowest rank. Bus bandwidth is what each link of a ring carries: 2 (R - 1) / R
    times the bytes by the time, as NCCL's tests count it.
    """
    tensors = {size: torch.zeros(size // 4, device=device) for size in sizes}
    calls = {size: _calls(tensor, device) for size, tensor in tensors.items()}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size, tensor in tensors.items():
            seconds[size].append(_slowest(_timed(tensor, calls[size], device), device))
    ring = 2.0 * (world.size - 1) / world.size
    figures = [Figure(_name(size), "s", values) for size, values in seconds.items()]
    figures += [
        Figure(_name(size), "bus MB/s", [ring * size / value / 1e6 for value in values]) for size, values in seconds.items()
    ]
    alpha, rate = fit(sizes, [statistics.median(seconds[size]) for size in sizes])
    return figures, {"ranks": world.size, "alpha_s": alpha, "bytes_per_s": rate, "bus_factor": ring, "sizes": list(sizes)}


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float | None]:
    """(alpha, rate) of seconds = alpha + bytes / rate: what a call costs whatever its size, and bytes of the tensor a second.

    Least squares of relative errors, since the sizes span five powers of ten; alpha is at least 0. Where more bytes take no longer (small
    sums on a busy machine) there is no rate to be told: None, and alpha is what fits alone.
    """
    weights = 1.0 / np.asarray(seconds)
    columns = np.stack([weights, np.asarray(sizes, dtype=np.float64) * weights], axis=1)
    (alpha, a_byte), *_ = np.linalg.lstsq(columns, np.ones(len(seconds)), rcond=None)
    if a_byte <= 0.0:
        return float(weights.sum() / (weights**2).sum()), None
    if alpha < 0.0:
        alpha, a_byte = 0.0, float(columns[:, 1].sum() / (columns[:, 1] ** 2).sum())
    return float(alpha), float(1.0 / a_byte)


def _calls(tensor: torch.Tensor, device: torch.device) -> int:
    """How many calls make a turn long enough to be read off the clock; the same on all ranks. The first ones connect the ranks."""
    _timed(tensor, 2, device)
    once = _slowest(_timed(tensor, 1, device), device)
    return max(1, min(MAX_CALLS, int(SECONDS_OF_A_TURN / once)))


def _timed(tensor: torch.Tensor, calls: int, device: torch.device) -> float:
    """Seconds of one call on this rank, after all have come."""
    dist.barrier()
    _wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor)
    _wait(device)
    return (time.perf_counter() - began) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _slowest(seconds: float, device: torch.device) -> float:
    shared = torch.tensor([seconds], dtype=torch.float64, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return float(shared)


def _name(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
