"""Optimizers: TensorFlow's RMSProp, and torch's SGD; weight decay on weights only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TensorFlowRMSProp(torch.optim.Optimizer):
    """RMSProp as TensorFlow's ApplyRMSProp computes it, which the paper's training used.

        g   = gradient + weight_decay * w
        ms  = decay * ms + (1 - decay) * g^2            (starts at 1)
        mg  = decay * mg + (1 - decay) * g              (centered form only, starts at 0)
        mom = momentum * mom + lr * g / sqrt(ms - mg^2 + epsilon)
        w   = w - mom

    torch.optim.RMSprop differs three ways: epsilon outside the root, mean square from 0, and the learning rate applied to the
    momentum as a whole. With the paper's epsilon of 1.0 the results are far apart.

    State of a parameter: `mean_square`, `momentum` (where momentum > 0) and `mean_gradient` (centered), all of its shape.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1.0,
        weight_decay: float = 0.0,
        centered: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "decay": decay,
            "momentum": momentum,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
            "centered": centered,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. A closure is not supported."""
        if closure is not None:
            raise ValueError("TensorFlowRMSProp takes no closure")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            states = [self._state(weight, group) for weight in weights]
            # One fused call a term is faster on a GPU; on a CPU its temporaries fall out of the cache, and a loop is faster.
            update = _update_foreach if weights[0].is_cuda else _update_one_by_one
            update(weights, [weight.grad for weight in weights], states, group)

    def _state(self, weight: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["mean_square"] = torch.ones_like(weight, memory_format=torch.preserve_format)
            if group["momentum"] > 0:
                state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            if group["centered"]:
                state["mean_gradient"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state


def _update_one_by_one(
    weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], group: Mapping[str, Any]
) -> None:
    decay, momentum, lr = group["decay"], group["momentum"], group["lr"]
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        gradient = gradient.add(weight, alpha=group["weight_decay"]) if group["weight_decay"] else gradient
        mean_square = state["mean_square"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        root = mean_square.add(group["epsilon"])
        if group["centered"]:
            mean_gradient = state["mean_gradient"].lerp_(gradient, 1 - decay)
            root.addcmul_(mean_gradient, mean_gradient, value=-1)
        root.sqrt_()
        if momentum > 0:
            weight.sub_(state["momentum"].mul_(momentum).addcdiv_(gradient, root, value=lr))
        else:
            weight.addcdiv_(gradient, root, value=-lr)


def _update_foreach(
    weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], group: Mapping[str, Any]
) -> None:
    decay, momentum, lr = group["decay"], group["momentum"], group["lr"]
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
    squares = [state["mean_square"] for state in states]
    torch._foreach_mul_(squares, decay)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
    roots = torch._foreach_add(squares, group["epsilon"])
    if group["centered"]:
        means = [state["mean_gradient"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - decay)
        torch._foreach_addcmul_(roots, means, means, value=-1)
    torch._foreach_sqrt_(roots)
    if momentum > 0:
        momenta = [state["momentum"] for state in states]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_addcdiv_(momenta, gradients, roots, value=lr)
        torch._foreach_sub_(weights, momenta)
    else:
        torch._foreach_addcdiv_(weights, gradients, roots, value=-lr)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: convolution and dense weights with weight decay, norms and biases (one-dimensional) without."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, values: Mapping[str, Any], lr: float) -> torch.optim.Optimizer:
    """The optimizer that the recipe's optim section (`values`) describes, over a model's parameters."""
    groups = parameter_groups(model, values["weight_decay"])
    if values["name"] == "sgd":
        foreach = next(model.parameters()).is_cuda
        return torch.optim.SGD(groups, lr, momentum=values["momentum"], nesterov=values["nesterov"], foreach=foreach)
    return TensorFlowRMSProp(groups, lr, decay=values["decay"], momentum=values["momentum"], epsilon=values["epsilon"])
