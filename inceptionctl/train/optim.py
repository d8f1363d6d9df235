"""What changes the weights: optimizers (TensorFlow's RMSProp, torch's SGD and AdamW, timm's LAMB), the learning rate and the EMA."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.recipe.variants import (
    AdamWSection,
    ConstantSection,
    CosineSection,
    LambSection,
    OneCycleSection,
    Optim,
    PolynomialSection,
    RmsPropSection,
    Schedule,
    SgdSection,
    StaircaseSection,
)
from inceptionctl.train import cpu_rmsprop
from inceptionctl.words import counted_epochs


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
            update = _update_foreach if weights[0].is_cuda else _update_in_one_pass
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


def _update_in_one_pass(
    weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], group: Mapping[str, Any]
) -> None:
    rows, others = [], []
    for i, (weight, gradient, state) in enumerate(zip(weights, gradients, states, strict=True)):
        row = [weight, _as_it_lies(gradient, weight), *(state[name] for name in _STATE if name in state)]
        if weight.dtype == torch.float32 and weight.device.type == "cpu" and cpu_rmsprop.lie_alike(row):
            rows.append(row)
        else:
            others.append(i)
    decay, momentum = group["decay"], group["momentum"]
    constants = (group["weight_decay"], decay, 1 - decay, momentum, group["epsilon"], group["lr"])
    if rows:
        cpu_rmsprop.update(rows, momentum=momentum, centered=group["centered"], constants=constants)
    if others:
        _update_foreach([weights[i] for i in others], [gradients[i] for i in others], [states[i] for i in others], group)


_STATE = ("mean_square", "momentum", "mean_gradient")


def _as_it_lies(gradient: Tensor, weight: Tensor) -> Tensor:
    """A gradient in the order of memory of its weight, which backward passes leave it in."""
    if cpu_rmsprop.lie_alike((gradient, weight)):
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


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


Groups = list[dict[str, Any]]


HEADS = ("classifier", "aux_head")


def parameter_groups(model: nn.Module, optim: Optim) -> Groups:
    """Two groups for each learning rate: convolution and dense weights with weight decay, norms and biases (one-dimensional) without.

    The rates differ by `lr_factor`. Frozen parameters are left out. Raises RecipeError when all are frozen.
    """
    factors = lr_factors(model, optim.lr_decay_by_block, optim.head_lr_factor)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = (factors.get(name.partition(".")[0], 1.0), parameter.ndim <= 1)
            groups.setdefault(place, []).append(parameter)
    if not groups:
        raise RecipeError("model.freeze names the whole network: nothing is left to train", "leave at least `classifier` out")
    return [
        {"params": groups[factor, plain], "weight_decay": 0.0 if plain else optim.weight_decay, "lr_factor": factor}
        for factor, plain in sorted(groups, key=lambda place: (-place[0], place[1]))
    ]


def lr_factors(model: nn.Module, decay: float, head: float) -> dict[str, float]:
    """Factors on the learning rate by block: `head` for classifiers, `decay` to the n-th power for the n-th block before them.

    As timm's `layer_decay`. Blocks are the network's children with parameters, those that `model.freeze` names.
    """
    blocks = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    heads = [name for name in blocks if name in HEADS] or blocks[-1:]
    before = [name for name in blocks if name not in heads]
    return {**{name: decay ** (len(before) - i) for i, name in enumerate(before)}, **dict.fromkeys(heads, head)}


def compile_beside(optimizer: torch.optim.Optimizer) -> None:
    """Have what steps on a CPU need compiled beside the first images and passes."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, TensorFlowRMSProp) and group["params"][0].device.type == "cpu":
        cpu_rmsprop.compile_beside(group["momentum"], group["centered"])


def build_optimizer(model: nn.Module, optim: Optim, lr: float) -> torch.optim.Optimizer:
    """The optimizer that a recipe's optim section describes, over a model's trained parameters.

    Raises RecipeError when nothing is to be trained, EnvironmentFault when the library of an optimizer is not installed.
    """
    groups, device = parameter_groups(model, optim), next(model.parameters()).device.type
    match optim:
        case RmsPropSection():
            return TensorFlowRMSProp(
                groups, lr, decay=optim.decay, momentum=optim.momentum, epsilon=optim.epsilon, centered=optim.centered
            )
        case SgdSection():
            # One call for many tensors is faster on GPUs. On CPUs torch's one pass gains too little for its faults (next).
            foreach = device == "cuda"
            return torch.optim.SGD(groups, lr, momentum=optim.momentum, nesterov=optim.nesterov, foreach=foreach)
        case AdamWSection():
            return _adamw(groups, lr, optim, device)
        case LambSection():
            return _lamb(groups, lr, optim)


def _adamw(groups: Groups, lr: float, optim: AdamWSection, device: str) -> torch.optim.Optimizer:
    form = {"fused": True} if device == "cpu" else {"foreach": device == "cuda"}
    optimizer = torch.optim.AdamW(groups, lr, betas=optim.betas, eps=optim.epsilon, **form)
    if device == "cpu":
        # torch's one pass goes by memory, and takes a gradient in another order without a word.
        optimizer.register_step_pre_hook(_lay_gradients_as_weights)
    return optimizer


def _lay_gradients_as_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad = _as_it_lies(weight.grad, weight)


def _lamb(groups: Groups, lr: float, optim: LambSection) -> torch.optim.Optimizer:
    try:
        from timm.optim.lamb import Lamb
    except ImportError as error:
        raise EnvironmentFault(
            f"optim.name is lamb, which is timm's, and timm cannot be imported: {error}", "`pip install 'inceptionctl[timm]'`"
        ) from None
    # Clipping is the engine's, for every optimizer alike.
    lamb: torch.optim.Optimizer = Lamb(groups, lr, betas=optim.betas, eps=optim.epsilon, max_grad_norm=None)
    return lamb


def state_names(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors, each of a weight's shape, that the optimizer of this name in a recipe keeps for every weight.

    `options` are those of its section, or of a parameter group.
    """
    momentum, centered = options.get("momentum", 0.0) > 0, options.get("centered", False)
    names = {
        "rmsprop": {"mean_square": True, "momentum": momentum, "mean_gradient": centered},
        "sgd": {"momentum_buffer": momentum},
        "adamw": {"exp_avg": True, "exp_avg_sq": True},
        "lamb": {"exp_avg": True, "exp_avg_sq": True},
    }
    return tuple(state for state, kept in names[name].items() if kept)


def state_names_of(optim: Optim) -> tuple[str, ...]:
    """The same of the optimizer that a recipe's optim section describes."""
    return state_names(optim.name, optim.model_dump())


def first_value(state_name: str) -> float:
    """What a tensor of `state_names` is full of before the first step."""
    return 1.0 if state_name == "mean_square" else 0.0


def described_optimizer(optimizer: torch.optim.Optimizer) -> tuple[str, set[str]]:
    """(name in the recipe, `state_names`) of an optimizer that `build_optimizer` made."""
    name = {"TensorFlowRMSProp": "rmsprop", "SGD": "sgd", "AdamW": "adamw", "Lamb": "lamb"}[type(optimizer).__name__]
    return name, set(state_names(name, optimizer.param_groups[0]))


def staircase(schedule: StaircaseSection, epoch: float) -> float:
    """The paper's: base_lr x factor ^ floor(epoch / every_epochs) (section 4: 0.045, 0.94, 2)."""
    # The small constant keeps a stair that begins on a whole step from starting one step late by rounding.
    stair = math.floor(epoch / schedule.every_epochs + 1e-9)
    return schedule.base_lr * schedule.factor**stair


def cosine(schedule: CosineSection, epoch: float, epochs: float) -> float:
    """Half a cosine from base_lr, after the warm-up, to final_lr at the end, or of each cycle (Loshchilov and Hutter 2017)."""
    if schedule.cycle_epochs is None:
        return _half_cosine(schedule.base_lr, schedule.final_lr, _done(schedule.warmup_epochs, epoch, epochs))
    # As with stairs: a cycle that begins on a whole step must not begin one late by rounding.
    passed = max(0.0, epoch - schedule.warmup_epochs) / schedule.cycle_epochs + 1e-9
    return _half_cosine(schedule.base_lr, schedule.final_lr, passed - math.floor(passed))


def one_cycle(schedule: OneCycleSection, epoch: float, epochs: float) -> float:
    """Up from initial_lr and down to final_lr, each by half a cosine (as torch's OneCycleLR)."""
    done = _done(0.0, epoch, epochs)
    if done < schedule.rise:
        return _half_cosine(schedule.initial_lr, schedule.base_lr, done / schedule.rise)
    return _half_cosine(schedule.base_lr, schedule.final_lr, (done - schedule.rise) / (1.0 - schedule.rise))


def polynomial(schedule: PolynomialSection, epoch: float, epochs: float) -> float:
    """base_lr, after the warm-up, less what a power of the rest of the training takes off, to final_lr."""
    left = 1.0 - _done(schedule.warmup_epochs, epoch, epochs)
    return schedule.final_lr + (schedule.base_lr - schedule.final_lr) * math.pow(left, schedule.power)


def _done(start: float, epoch: float, epochs: float) -> float:
    return min(1.0, max(0.0, (epoch - start) / (epochs - start)))


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * done))


def learning_rate(schedule: Schedule, *, step: int, steps_per_epoch: float, epochs: float) -> float:
    """Learning rate of optimizer step `step` (from 0)."""
    warmup_steps, epoch = schedule.warmup_epochs * steps_per_epoch, step / steps_per_epoch
    match schedule:
        case StaircaseSection():
            rate = staircase(schedule, epoch)
        case CosineSection():
            rate = cosine(schedule, epoch, epochs)
        case OneCycleSection():
            rate = one_cycle(schedule, epoch, epochs)
        case PolynomialSection():
            rate = polynomial(schedule, epoch, epochs)
        case ConstantSection():
            rate = schedule.base_lr
    if step >= warmup_steps:
        return rate
    # The first step is not wasted on a rate of zero: the rise goes through (step + 1) / warmup_steps.
    return rate * (schedule.warmup_factor or min(1.0, (step + 1) / warmup_steps))


def schedule_in_words(schedule: Schedule, epochs: float) -> str:
    """One line for people, for `train --dry-run`."""
    match schedule:
        case StaircaseSection():
            words = (
                f"{schedule.base_lr:g} x {schedule.factor:g} every {counted_epochs(schedule.every_epochs)},"
                f" down to {staircase(schedule, max(0.0, epochs - 1e-6)):.3g} at epoch {epochs:g}"
            )
        case CosineSection():
            often, length = ("", epochs) if schedule.cycle_epochs is None else (" every", schedule.cycle_epochs)
            over = f"{often} {counted_epochs(length)}" if often else f" over {counted_epochs(length)}"
            words = f"half a cosine from {schedule.base_lr:g} to {schedule.final_lr:g}{over}"
        case OneCycleSection():
            words = (
                f"one cycle: from {schedule.initial_lr:g} up to {schedule.base_lr:g} in {schedule.rise:.0%} of"
                f" {counted_epochs(epochs)}, down to {schedule.final_lr:g}"
            )
        case PolynomialSection():
            words = (
                f"from {schedule.base_lr:g} to {schedule.final_lr:g} over {counted_epochs(epochs)}, power {schedule.power:g}"
            )
        case ConstantSection():
            words = f"{schedule.base_lr:g} throughout"
    if not schedule.warmup_epochs:
        return words
    rise = f"{schedule.warmup_factor:g} times that for" if schedule.warmup_factor else "a linear rise over"
    return f"{words}, after {rise} {counted_epochs(schedule.warmup_epochs)}"


class WeightAverage:
    """Exponential moving average over parameters and batch-norm statistics, with TensorFlow's warm-up of the decay.

    Update number n (from 1) uses min(decay, (1 + n) / (10 + n)), so that the average soon forgets the random start. The
    statistics are averaged too, as the original training code does. It starts from the initial weights, as TensorFlow's.

    torch's AveragedModel copies the model at its first update, and keeps its counter in a tensor that it copies to the device once for
    each kind of tensor and update: a wait for the device, where nothing else in a step waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        """Updates so far; belongs into every checkpoint."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """The averaged network, in evaluation mode."""
        self._of: nn.Module | None = None
        self._averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counters: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and statistics of `model` after an optimizer step. No wait for the device."""
        self.num_updates += 1
        if self._of is not model:
            self._find_tensors(model)
        torch._foreach_lerp_(*self._averaged, 1.0 - self.decay_at(self.num_updates))
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)

    def _find_tensors(self, model: nn.Module) -> None:
        # Once: to walk through both networks takes the host milliseconds, and in a step of a GPU it is the host that is short of time.
        self._of = model
        own, theirs = (itertools.chain(each.parameters(), each.buffers()) for each in (self.model, model))
        pairs = list(zip(own, theirs, strict=True))
        self._averaged = _columns(pair for pair in pairs if pair[0].is_floating_point())
        self._counters = _columns(pair for pair in pairs if not pair[0].is_floating_point())  # of batches, one in each norm

    def decay_at(self, update: int) -> float:
        """Decay of update number `update` (from 1)."""
        return min(self.decay, (1 + update) / (10 + update))


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    rows = list(pairs)
    return [one for one, _ in rows], [other for _, other in rows]
