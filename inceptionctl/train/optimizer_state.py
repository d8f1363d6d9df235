"""State of the optimizer by name, whichever rank holds which part of it: one form for any number of ranks and both ZeRO stages.

`stem.conv.weight/mean_square` is a tensor of the weight's shape or a counter; `group 0/step` is a counter of a parameter group.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from inceptionctl.train.optim import first_value


class WholeState:
    """Every rank holds the state of every weight (ZeRO stage 0)."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._weights = dict(model.named_parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, on every rank; no copies."""
        tensors = {
            f"{name}/{key}": value
            for name, weight in self._weights.items()
            for key, value in self.optimizer.state.get(weight, {}).items()
            if isinstance(value, Tensor)
        }
        counters = {f"group {i}/step": group["step"] for i, group in enumerate(self.optimizer.param_groups) if "step" in group}
        return tensors | {name: torch.as_tensor(value) for name, value in counters.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        for name, value in tensors.items():
            owner, _, key = name.rpartition("/")
            if owner.startswith("group "):
                self.optimizer.param_groups[int(owner.removeprefix("group "))][key] = value
                continue
            weight = self._weights[owner]
            if value.shape == weight.shape:
                # The memory format follows the weight's (channels_last or not), the values are the same.
                value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
            self.optimizer.state[weight][key] = value  # else a counter, which torch keeps on the CPU


class PartitionedState:
    """Every rank holds an equal part of the state (ZeRO stage 1).

    DeepSpeed lays the weights of a parameter group one behind the other into a flat tensor, filled up with zeros to a multiple of the
    ranks; rank r owns the r-th part of it, which its optimizer sees as the one parameter of the group. To be made before DeepSpeed
    takes the optimizer over, because the names are those of the weights.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        names = {weight: name for name, weight in model.named_parameters()}
        self._groups = [{names[weight]: weight for weight in group["params"]} for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Tensor]:
        """All of it on rank 0, nothing on the others; a collective call."""
        tensors: dict[str, Tensor] = {}
        for part, weights in self._parts():
            for key, value in self.optimizer.state.get(part, {}).items():
                if not isinstance(value, Tensor):
                    continue
                if value.shape != part.shape:  # a counter, the same on all ranks
                    tensors |= {f"{name}/{key}": value for name in weights}
                elif (whole := _gather(value)) is not None:
                    tensors |= {f"{name}/{key}": own for name, own in _split(whole, weights)}
        return tensors if dist.get_rank() == 0 else {}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back this rank's part of what `tensors` gave, and of the weights, which the network must hold already."""
        for part, weights in self._parts():
            part.copy_(_own_part(weights.values(), part))
            state = self.optimizer.state[part]
            for key in sorted({full.rpartition("/")[2] for full in tensors if full.rpartition("/")[0] in weights}):
                # Stage 0 keeps none for a weight that never had a gradient.
                found = {name: tensors[f"{name}/{key}"] for name in weights if f"{name}/{key}" in tensors}
                some, one = next(iter(found.items()))
                if one.shape != weights[some].shape:
                    state[key] = one.clone()
                    continue
                values = [found.get(name, torch.full(weight.shape, first_value(key))) for name, weight in weights.items()]
                state[key] = _own_part(values, part)

    def of_weights(self, pieces: Mapping[int, Iterable[Tensor]]) -> dict[nn.Parameter, Tensor | None]:
        """What this rank has of something that is in parts as the state is: None for a weight of which it has nothing.

        `pieces` are, by parameter group, tensors one behind the other that fill this rank's part, cut where weights end.
        """
        found: dict[nn.Parameter, Tensor | None] = {}
        for number, (part, weights) in enumerate(self._parts()):
            starts = list(itertools.accumulate((weight.numel() for weight in weights.values()), initial=0))
            found |= dict.fromkeys(weights.values())
            owners, place = [*weights.values()], dist.get_rank() * part.numel()
            for piece in pieces[number]:
                if place < starts[-1]:  # what comes after the last weight fills up
                    found[owners[bisect.bisect_right(starts, place) - 1]] = piece
                place += piece.numel()
        return found

    def _parts(self) -> Iterable[tuple[Tensor, dict[str, nn.Parameter]]]:
        return zip((group["params"][0] for group in self.optimizer.param_groups), self._groups, strict=True)


OptimizerState = WholeState | PartitionedState


def _gather(part: Tensor) -> Tensor | None:
    """The parts of all ranks one behind the other, on rank 0."""
    if dist.get_rank() != 0:
        dist.gather(part)
        return None
    whole = part.new_empty(part.numel() * dist.get_world_size())
    dist.gather(part, list(whole.chunk(dist.get_world_size())))
    return whole


def _split(whole: Tensor, weights: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    start = 0
    for name, weight in weights.items():
        yield name, whole[start : start + weight.numel()].view(weight.shape)
        start += weight.numel()


def _own_part(tensors: Iterable[Tensor], part: Tensor) -> Tensor:
    """What lies at this rank's part of the tensors laid one behind the other, where the part is and in its precision."""
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    start = dist.get_rank() * part.numel()
    own = torch.zeros_like(part)
    here = flat[start : start + part.numel()]
    own[: here.numel()].copy_(here)
    return own
