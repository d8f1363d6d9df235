"""Optimizers: TensorFlow's RMSProp, torch's SGD and AdamW, timm's LAMB; weight decay on weights only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inceptionctl.errors import EnvironmentFault, RecipeError

# Values of one tensor that an update takes at once on a CPU: its few tensors of half a megabyte stay in the caches.
PIECE = 1 << 17


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
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        for piece in _pieces({"weight": weight, "gradient": gradient, **state}):
            _update_piece(piece, group)


def _pieces(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Views of tensors of one shape, small enough for the caches: the eight passes of an update then read memory once."""
    first = next(iter(tensors.values()))
    dense = first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
    if first.numel() <= PIECE or not dense or any(tensor.stride() != first.stride() for tensor in tensors.values()):
        yield tensors
        return
    # In the order of memory, whatever the memory format: an update knows no neighbours.
    flat = {name: tensor.as_strided((tensor.numel(),), (1,)) for name, tensor in tensors.items()}
    for start in range(0, first.numel(), PIECE):
        yield {name: tensor[start : start + PIECE] for name, tensor in flat.items()}


def _update_piece(piece: dict[str, Tensor], group: Mapping[str, Any]) -> None:
    decay, lr = group["decay"], group["lr"]
    weight, gradient = piece["weight"], piece["gradient"]
    gradient = gradient.add(weight, alpha=group["weight_decay"]) if group["weight_decay"] else gradient
    mean_square = piece["mean_square"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    root = mean_square.add(group["epsilon"])
    if group["centered"]:
        mean_gradient = piece["mean_gradient"].lerp_(gradient, 1 - decay)
        root.addcmul_(mean_gradient, mean_gradient, value=-1)
    root.sqrt_()
    if group["momentum"] > 0:
        weight.sub_(piece["momentum"].mul_(group["momentum"]).addcdiv_(gradient, root, value=lr))
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
    """Two groups: convolution and dense weights with weight decay, norms and biases (one-dimensional) without.

    Frozen parameters are left out. Raises RecipeError when all are frozen.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise RecipeError("model.freeze names the whole network: nothing is left to train", "leave at least `classifier` out")
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, values: Mapping[str, Any], lr: float) -> torch.optim.Optimizer:
    """The optimizer that the recipe's optim section (`values`) describes, over a model's trained parameters.

    Raises RecipeError when nothing is to be trained, EnvironmentFault when the library of an optimizer is not installed.
    """
    groups = parameter_groups(model, values["weight_decay"])
    # As for our own: loops on CPUs, one call for many tensors on GPUs.
    return OPTIMIZERS[values["name"]](groups, lr, values, next(model.parameters()).is_cuda)


Groups = list[dict[str, Any]]


def _rmsprop(groups: Groups, lr: float, values: Mapping[str, Any], foreach: bool) -> torch.optim.Optimizer:
    names = ("decay", "momentum", "epsilon", "centered")
    return TensorFlowRMSProp(groups, lr, **{name: values[name] for name in names})


def _sgd(groups: Groups, lr: float, values: Mapping[str, Any], foreach: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=values["momentum"], nesterov=values["nesterov"], foreach=foreach)


def _adamw(groups: Groups, lr: float, values: Mapping[str, Any], foreach: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr, betas=tuple(values["betas"]), eps=values["epsilon"], foreach=foreach)


def _lamb(groups: Groups, lr: float, values: Mapping[str, Any], foreach: bool) -> torch.optim.Optimizer:
    try:
        from timm.optim.lamb import Lamb
    except ImportError as error:
        raise EnvironmentFault(
            f"optim.name is lamb, which is timm's, and timm cannot be imported: {error}", "`pip install 'inceptionctl[timm]'`"
        ) from None
    # Clipping is the engine's, for every optimizer alike.
    lamb: torch.optim.Optimizer = Lamb(groups, lr, betas=tuple(values["betas"]), eps=values["epsilon"], max_grad_norm=None)
    return lamb


OPTIMIZERS: dict[str, Callable[[Groups, float, Mapping[str, Any], bool], torch.optim.Optimizer]] = {
    "rmsprop": _rmsprop,
    "sgd": _sgd,
    "adamw": _adamw,
    "lamb": _lamb,
}


def state_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors, each of a weight's shape, that the optimizer of an optim section keeps for every weight."""
    momentum = values.get("momentum", 0.0) > 0
    names = {
        "rmsprop": {"mean_square": True, "momentum": momentum, "mean_gradient": values.get("centered", False)},
        "sgd": {"momentum_buffer": momentum},
        "adamw": {"exp_avg": True, "exp_avg_sq": True},
        "lamb": {"exp_avg": True, "exp_avg_sq": True},
    }
    return tuple(name for name, kept in names[values["name"]].items() if kept)


def first_value(state_name: str) -> float:
    """What a tensor of `state_names` is full of before the first step."""
    return 1.0 if state_name == "mean_square" else 0.0


def described_optimizer(optimizer: torch.optim.Optimizer) -> tuple[str, set[str]]:
    """(name in the recipe, `state_names`) of an optimizer that `build_optimizer` made."""
    name = {"TensorFlowRMSProp": "rmsprop", "SGD": "sgd", "AdamW": "adamw", "Lamb": "lamb"}[type(optimizer).__name__]
    return name, set(state_names({"name": name, **optimizer.param_groups[0]}))
