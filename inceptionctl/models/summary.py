"""MACs, parameters and shapes of a network, found on torch's meta device without running it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Stage:
    """A named part of a network: `module` is its path among the submodules, `source` the figure of the paper that draws it."""

    module: str
    source: str


@runtime_checkable
class Staged(Protocol):
    """A network that names its stages, in the order of the forward pass, none inside another."""

    STAGES: tuple[Stage, ...]


@dataclass(frozen=True)
class Endpoint:
    """A stage of a network: its output `shape` (H, W, C), its own `parameters` and `multiply_adds` (MACs of one image)."""

    name: str
    source: str
    shape: tuple[int, int, int]
    parameters: int
    multiply_adds: int


def count_parameters(model: nn.Module) -> int:
    """Number of parameters: weights, biases, batch norm's gamma and beta, without its running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, input_px: int) -> int:
    """MACs of one forward pass over one image of `input_px` x `input_px` px: convolutions and linear layers.

    Batch norm, activations, pooling and biases do not count, as usual; one MAC is two FLOP.
    Raises what the model raises for an image that is too small. The model itself is neither run nor changed.
    """
    _, layers = _trace(model, input_px)
    return sum(layers.values())


def endpoints(model: nn.Module, input_px: int) -> list[Endpoint]:
    """The stages that `model.STAGES` names, with their shapes (H, W, C) for images of `input_px` x `input_px` px.

    A stage that is not run in evaluation, or outputs no tensor, is left out.
    Raises TypeError for a model without STAGES, and what the model raises for an image that is too small.
    """
    if not isinstance(model, Staged):
        raise TypeError(f"{type(model).__name__} names no stages: give the class a STAGES tuple")
    shapes, layers = _trace(model, input_px)
    found = []
    for stage in model.STAGES:
        if stage.module not in shapes:
            continue
        own = (count for name, count in layers.items() if f"{name}.".startswith(f"{stage.module}."))
        found.append(
            Endpoint(
                name=stage.module,
                source=stage.source,
                shape=_height_width_channels(shapes[stage.module]),
                parameters=count_parameters(model.get_submodule(stage.module)),
                multiply_adds=sum(own),
            )
        )
    return found


def norms_of_one_value(model: nn.Module, input_px: int) -> list[str]:
    """Batch norms in training mode whose input has one value a channel and image, at `input_px` px: (N, C) or (N, C, 1, 1).

    Their variance over a batch of one image is undefined. Norms in evaluation mode do not count; an auxiliary head does.
    """
    ghost = _ghost(model).train()
    found: list[str] = []

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[2:].numel() == 1:
                found.append(name)

        return hook

    trained = {name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training}
    for name, module in ghost.named_modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # one that trains raises on one value
            if name in trained:
                module.register_forward_pre_hook(record(name))
    with torch.no_grad():
        ghost(_image(ghost, input_px))
    return found


def _height_width_channels(shape: torch.Size) -> tuple[int, int, int]:
    if len(shape) == 4:
        return shape[2], shape[3], shape[1]
    if len(shape) == 3:  # (N, tokens, C): transformers have no grid
        return 1, shape[1], shape[2]
    return 1, 1, shape[-1]  # (N, C), after the grid is gone


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    found = map(_first_tensor, output) if isinstance(output, list | tuple) else ()
    return next((tensor for tensor in found if tensor is not None), None)


def _trace(model: nn.Module, input_px: int) -> tuple[dict[str, torch.Size], dict[str, int]]:
    """Output shape of every module, and MACs of every convolution and linear layer, by module path.

    Of several outputs the first tensor counts; a module that is not called in evaluation, such as an auxiliary head, is in neither.
    """
    ghost = _ghost(model).eval()
    shapes: dict[str, torch.Size] = {}
    layers: dict[str, int] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is None:
                return
            shapes[name] = tensor.shape
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Each output value is one dot product with the weights of its channel.
                layers[name] = layers.get(name, 0) + tensor.numel() * module.weight[0].numel()

        return hook

    for name, module in ghost.named_modules():
        module.register_forward_hook(record(name))
    with torch.no_grad():
        ghost(_image(ghost, input_px))
    return shapes, layers


def _ghost(model: nn.Module) -> nn.Module:
    """A copy on the meta device."""
    # The memo makes deepcopy use these instead of the tensors: the copy takes no memory, and the original's device, mode and hooks
    # do not change.
    memo: dict[int, Any] = {id(tensor): _on_meta(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def _image(ghost: nn.Module, input_px: int) -> Tensor:
    tensors = (*ghost.parameters(), *ghost.buffers())
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    return torch.empty(1, 3, input_px, input_px, device="meta", dtype=dtype)


def _on_meta(tensor: Tensor) -> Tensor:
    ghost = torch.empty_like(tensor, device="meta")
    return nn.Parameter(ghost, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else ghost
