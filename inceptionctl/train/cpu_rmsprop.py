"""TensorFlow's RMSProp (train/optim.py) on a CPU: one pass over the memory of each tensor, compiled by numba, tensors in parallel.

torch's operators read and write every tensor once for each term of the formula, and cost a call for each: 31 ms instead of 9 ms in a step
of the quick start on two cores, a tenth of its images a second. Each product, quotient, sum and root is rounded to float32 by itself: the
same bits on any processor and any number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inceptionctl.errors import EnvironmentFault
from inceptionctl.jit import COMPILING, OPTIONS, import_numba

Kernel = Callable[..., None]


def update(rows: Sequence[Sequence[Tensor]], *, momentum: float, centered: bool, constants: Sequence[float]) -> None:
    """Update each row's weight and state in place, in as many threads as torch's operators take.

    A row is (weight, gradient, mean square[, momentum][, mean gradient]), which `lie_alike`; `constants` are weight decay, decay,
    1 - decay, momentum, epsilon and learning rate. Raises EnvironmentFault when numba cannot be used.
    """
    kernel = compiled(momentum > 0, centered)
    # The largest first: then no thread is left alone with one at the end.
    ordered = sorted(rows, key=lambda row: row[0].numel(), reverse=True)
    left = iter([[*map(_flat, row), *[_UNUSED] * (5 - len(row))] for row in ordered])

    def work() -> None:
        for row in left:
            kernel(*row, *constants)

    # Threads that sleep between updates: numba's own and another team of OpenMP's would wait for work in the way of torch's.
    num_others = min(torch.get_num_threads(), len(rows)) - 1
    others = [_threads(num_others).submit(work) for _ in range(num_others)]
    work()
    for other in others:
        other.result()


def lie_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are dense, of one shape and dtype, and in the same order of memory."""
    # Not by their strides alone: those of a dimension of size 1 mean nothing.
    formats = (torch.contiguous_format, torch.channels_last)
    return len({(tensor.shape, tensor.dtype) for tensor in tensors}) == 1 and any(
        all(tensor.is_contiguous(memory_format=one) for tensor in tensors) for one in formats
    )


def compile_beside(momentum: float, centered: bool) -> None:
    """Compile in a thread, beside the first images and passes: the first update would wait for it, 0.3 s."""

    def work() -> None:
        with contextlib.suppress(EnvironmentFault):  # said by the update
            compiled(momentum > 0, centered)

    Thread(target=work, name="compiling").start()


def compiled(with_momentum: bool, centered: bool) -> Kernel:
    """The update of one tensor in machine code."""
    with COMPILING:
        return _compiled(with_momentum, centered)


@cache
def _compiled(with_momentum: bool, centered: bool) -> Kernel:
    numba = import_numba("updates weights")
    number, values = numba.types.float32, numba.types.Array(numba.types.float32, 1, "C")
    signature = numba.types.void(*[values] * 5, *[number] * 6)
    kernel: Kernel = numba.njit(signature, **OPTIONS)(_rmsprop(with_momentum, centered))
    return kernel


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="updating")


_UNUSED = np.empty(0, dtype=np.float32)


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    """A dense tensor's memory."""
    flat: NDArray[np.float32] = tensor.as_strided((tensor.numel(),), (1,)).numpy()
    return flat


def _rmsprop(with_momentum: bool, centered: bool) -> Kernel:
    # What is known here is known to the compiler.
    def rmsprop(
        weights: Any, gradients: Any, squares: Any, first: Any, second: Any,
        weight_decay: Any, decay: Any, rest: Any, momentum: Any, epsilon: Any, lr: Any,
    ) -> None:  # fmt: skip
        momenta, means = (first, second) if with_momentum else (second, first)
        for i in range(len(weights)):
            gradient = gradients[i] + weight_decay * weights[i]
            square = decay * squares[i] + rest * gradient * gradient
            squares[i] = square
            square = square + epsilon
            if centered:
                mean = decay * means[i] + rest * gradient
                means[i] = mean
                square = square - mean * mean
            step = lr * gradient / np.sqrt(square)
            if with_momentum:
                step = momentum * momenta[i] + step
                momenta[i] = step
            weights[i] = weights[i] - step

    return rmsprop
