"""Updates of many float32 tensors on a CPU, in one pass over memory, compiled by numba for this processor.

torch's operators would read and write every tensor once for each term of a formula, and cost a call for each small tensor. Each
product, quotient and sum is rounded to float32 by itself: the same bits on any processor and any number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
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

Table = NDArray[np.uintp]
Kernel = Callable[..., None]

# Values of a tensor that a thread takes at once, and how many shares of the work each thread gets: one that is held up takes fewer.
PIECE = 1 << 16
SHARES = 8


def rmsprop_kernel(momentum: float, centered: bool) -> str:
    """Name of the kernel for TensorFlow's RMSProp (train/optim.py).

    Its tensors: weight, gradient, mean square, momentum (where above 0), mean gradient (where centered); its constants: weight decay,
    decay, 1 - decay, momentum, epsilon, learning rate.
    """
    return f"rmsprop{'+momentum' if momentum > 0 else ''}{'+centered' if centered else ''}"


def lie_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are what `update` takes: float32 on a CPU, of one shape, dense, and in the same order of memory."""
    shape = tensors[0].shape
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.shape != shape for tensor in tensors):
        return False
    # Not by their strides: those of a dimension of size 1 mean nothing.
    formats = (torch.contiguous_format, torch.channels_last)
    return any(all(tensor.is_contiguous(memory_format=one) for tensor in tensors) for one in formats)


def update(name: str, rows: Sequence[Sequence[Tensor]], *constants: float) -> None:
    """Run the kernel `name` on each row of tensors, which `lie_alike`; in as many threads as torch's operators take.

    Raises EnvironmentFault when numba cannot be used.
    """
    if not rows:
        return
    kernel, table = compiled(name), _table(rows)
    num_threads = min(torch.get_num_threads(), len(table))
    if num_threads == 1:
        kernel(table, *constants)
        return
    shares = iter(np.array_split(table, SHARES * num_threads))

    def work() -> None:
        for share in shares:
            kernel(share, *constants)

    # Threads that sleep between updates: numba's own and another team of OpenMP's would wait for work in the way of torch's.
    others = [_threads(num_threads - 1).submit(work) for _ in range(num_threads - 1)]
    work()
    for other in others:
        other.result()


def compile_beside(names: Iterable[str]) -> None:
    """Compile kernels in a thread, beside whatever comes before they are needed: 0.3 s of processor time each, if numba is loaded."""

    def work() -> None:
        with contextlib.suppress(EnvironmentFault):  # said by whoever needs them
            for name in names:
                compiled(name)

    Thread(target=work, name="compiling").start()


def compiled(name: str) -> Kernel:
    """A kernel in machine code, which takes a table and constants."""
    with COMPILING:
        return _compiled(name)


@cache
def _compiled(name: str) -> Kernel:
    numba = import_numba("updates weights")
    number, table = numba.types.float32, numba.types.Array(numba.types.uintp, 2, "C")
    kernel: Kernel = numba.njit(numba.types.void(table, *[number] * 6), **OPTIONS)(_rmsprop(_view(numba), name))
    return kernel


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="updating")


def _table(rows: Sequence[Sequence[Tensor]]) -> Table:
    """A row for each piece of a tensor: its length and its address in each tensor of the row."""
    whole = np.array([[row[0].numel(), *(tensor.data_ptr() for tensor in row)] for row in rows], dtype=np.uintp)
    pieces = (whole[:, 0].astype(np.intp) + PIECE - 1) // PIECE
    before = np.repeat(np.cumsum(pieces) - pieces, pieces)
    skipped = ((np.arange(len(before)) - before) * PIECE).astype(np.uintp)
    table = np.repeat(whole, pieces, axis=0)
    table[:, 0] = np.minimum(table[:, 0] - skipped, np.uintp(PIECE))
    table[:, 1:] += skipped[:, None] * np.uintp(4)
    return table


def _view(numba: Any) -> Any:
    """For kernels: so many float32 values at an address."""
    pointer = numba.types.CPointer(numba.types.float32)

    def to_pointer(_typing: Any, _address: Any) -> Any:
        def code(target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], target.get_value_type(pointer))

        return pointer(numba.types.uintp), code

    at, carray = numba.extending.intrinsic(to_pointer), numba.carray

    def view(address: Any, length: Any) -> Any:
        return carray(at(address), (np.intp(length),))

    return numba.njit(view, **OPTIONS)


def _rmsprop(view: Any, name: str) -> Kernel:
    # What is known here is known to the compiler.
    with_momentum, centered = "+momentum" in name, "+centered" in name
    mean_gradient_at = 5 if with_momentum else 4

    def rmsprop(table: Any, weight_decay: Any, decay: Any, rest: Any, momentum: Any, epsilon: Any, lr: Any) -> None:
        for row in range(len(table)):
            length = table[row, 0]
            weights, gradients = view(table[row, 1], length), view(table[row, 2], length)
            squares = view(table[row, 3], length)
            momenta = view(table[row, 4], length) if with_momentum else squares
            means = view(table[row, mean_gradient_at], length) if centered else squares
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
