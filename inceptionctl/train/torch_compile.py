"""torch.compile for forward and backward passes: block by block, or the network as a whole."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from inceptionctl.errors import EnvironmentFault

Compile = Literal["none", "blocks", "network"]
CompileMode = Literal["default", "max-autotune", "cuda-graphs"]

# CUDA's graphs keep gradients in memory of their own, which accumulation and the average over ranks would find overwritten: no recipe
# can ask for them, `bench step` measures them.
_MODES = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs", "cuda-graphs": "reduce-overhead"}
# Blocks of one class share their code, and each of its shapes, classes inside and frozen weights makes a graph: dynamo's 8 are too few.
_MAX_GRAPHS = 256

_HINT = "set train.compile to none, or install what it needs: g++ for CPUs (or CXX names another), triton and gcc for GPUs"

IN_WORDS = {"none": "", "blocks": ", blocks compiled", "network": ", compiled"}


def compile_network(model: nn.Module, what: Compile, mode: CompileMode = "default") -> None:
    """Compile a network's passes in place, at its next pass; its weights, names and hooks stay as they are.

    `blocks` compiles each block once for all that are alike, and hooks between blocks stay out of it; `network` makes one graph of
    everything, hooks included. Copies of the network are to be made before: they would run the original's blocks.
    """
    if what == "none":
        return
    from torch import _dynamo, _inductor

    _dynamo.config.recompile_limit = _MAX_GRAPHS
    # Dropout draws what it draws without compiling: a function of the place in the stream, whatever has been compiled.
    _inductor.config.fallback_random = True
    # A batch has one size in all of a training; what differs are blocks, and each shall have a graph of its own sizes.
    if what == "network":
        model.compile(dynamic=False, mode=_MODES[mode])
        return
    for block in compiled_blocks(model):
        block.forward = torch.compile(block.forward, dynamic=False, mode=_MODES[mode])


def compiled_blocks(model: nn.Module) -> list[nn.Module]:
    """What `blocks` compiles: a network's parts, of a part that is a row of blocks each block; single layers are left as they are."""
    blocks = []
    for part in model.children():
        blocks += list(part.children()) if isinstance(part, nn.Sequential) else [part]
    return [block for block in blocks if next(block.children(), None) is not None]


def lacks(device: torch.device) -> str | None:
    """What torch.compile needs for a device and does not find here."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    # Triton's kernels are started by functions in C; the passes of a CPU are C++.
    names = ("CC", "gcc", "clang") if device.type == "cuda" else ("CXX", "g++")
    wished = os.environ.get(names[0])
    return None if any(shutil.which(name) for name in ([wished] if wished else names[1:])) else wished or names[1]


def check_compiler(what: Compile, device: torch.device) -> None:
    """Raise EnvironmentFault when it is to be compiled and cannot."""
    lacking = None if what == "none" else lacks(device)
    if lacking:
        raise EnvironmentFault(f"train.compile is {what}, but there is no {lacking} here", _HINT)


@contextlib.contextmanager
def compile_errors(what: Compile) -> Iterator[None]:
    """Word what torch.compile raises at the first passes: a missing compiler, mostly. Raises EnvironmentFault."""
    try:
        yield
    except RuntimeError as error:
        if what == "none" or not _is_of_compiler(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EnvironmentFault(
            f"torch.compile failed: {lines[0][:300] if lines else type(error).__name__}",
            _HINT,
        ) from error


def _is_of_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return isinstance(error, TorchDynamoException | CppCompileError | InvalidCxxCompiler)
