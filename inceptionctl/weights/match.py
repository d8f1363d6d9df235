"""Match another program's tensors to a network of ours: each is mapped, or reported as missing, left over or wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from inceptionctl.weights.names import Kind, Names, their_tensor
from inceptionctl.weights.weight_files import Which

# The labels of ImageNet in TF-slim's data sets start at 1; 0 is a background that has no images.
WITH_BACKGROUND = 1001
AUX_HEAD = "aux_head."
CLASSIFIERS = ("classifier.", "aux_head.classifier.")

AVERAGE = "ExponentialMovingAverage"
# State of optimizers and TensorFlow's sessions.
NO_WEIGHTS = re.compile(r"(^|/)(global_step|beta1_power|beta2_power|RMSProp(_\d+)?|Momentum|Adam(_\d+)?|Adagrad)$")


@dataclass(frozen=True)
class Mapped:
    """A tensor of ours and the source of its values: `theirs`, or None with a `note` on what was filled in."""

    ours: str
    theirs: str | None
    shape: tuple[int, ...]
    note: str = ""


@dataclass
class Match:
    """The fate of every tensor on both sides. `tensors` is complete if there are no `problems`."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[Mapped] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Their tensors that are not needed here, each with the reason."""

    @property
    def problems(self) -> list[str]:
        """One line for each tensor that is missing, wrong or left over."""
        return [
            *(f"missing: {line}" for line in self.missing),
            *(f"wrong: {line}" for line in self.wrong),
            *(f"left over: {line}" for line in self.left_over),
        ]

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "mapped": [asdict(item) for item in self.mapped],
            "dropped": [{"theirs": name, "reason": reason} for name, reason in self.dropped.items()],
            "missing": self.missing,
            "wrong": self.wrong,
            "left_over": self.left_over,
        }


def to_our_layout(tensor: Tensor, kind: Kind, num_axes: int) -> Tensor:
    """TensorFlow's kernels are height x width x in x out, and its dense weights in x out; ours are torch's.

    A 1x1 convolution gives the weights of a linear layer where `num_axes`, those of the tensor of ours, is 2.
    """
    if kind == "torch":
        return tensor
    if tensor.dim() == 4:
        tensor = tensor.permute(3, 2, 0, 1)
        return tensor.flatten(1) if num_axes == 2 and tensor.shape[2:] == (1, 1) else tensor
    return tensor.T if tensor.dim() == 2 else tensor


def choose_averages(tensors: Mapping[str, Tensor], which: Which) -> tuple[dict[str, Tensor], dict[str, str]]:
    """TensorFlow's variables by their plain names, and those set aside, with the reason.

    A training checkpoint holds, beside a variable, its running average as `variable/ExponentialMovingAverage`.
    """
    averages = {name.removesuffix(f"/{AVERAGE}"): name for name in tensors if name.endswith(f"/{AVERAGE}")}
    chosen: dict[str, Tensor] = {}
    set_aside: dict[str, str] = {}
    for name, tensor in tensors.items():
        if NO_WEIGHTS.search(name):
            set_aside[name] = "no weight: state of the optimizer or the session"
        elif name.endswith(f"/{AVERAGE}"):
            if which == "ema":
                chosen[name.removesuffix(f"/{AVERAGE}")] = tensor
            else:
                set_aside[name] = "running average; the last weights were asked for"
        elif which == "ema" and name in averages:
            set_aside[name] = "last weights; their running average was taken"
        else:
            chosen[name] = tensor
    return chosen, set_aside


def count_classes(names: Names, tensors: Mapping[str, Tensor], kind: Kind) -> int | None:
    """Rows of their classifier; None when there is none."""
    bias = tensors.get(their_tensor(names, "classifier.bias", kind) or "")
    return None if bias is None or bias.dim() != 1 else len(bias)


def match(
    own: Mapping[str, Tensor], names: Names, tensors: Mapping[str, Tensor], kind: Kind, *, drop_background: bool
) -> Match:
    """Find their tensor for each of `own` (which may be on the meta device), in our layout and fp32.

    `drop_background` drops the first row of the classifiers. A missing gamma is filled with ones, as TF-slim trains without it, and
    num_batches_tracked with 0.
    """
    found = Match()
    taken: set[str] = set()
    for ours, place in own.items():
        theirs = their_tensor(names, ours, kind)
        if theirs is None or theirs not in tensors:
            _fill_or_miss(found, ours, theirs, place, kind)
            continue
        taken.add(theirs)
        value = to_our_layout(tensors[theirs], kind, place.dim())
        note = ""
        if drop_background and ours.startswith(CLASSIFIERS) and len(value) == WITH_BACKGROUND:
            value, note = value[1:], "without its first row, the background"
        if value.shape != place.shape:
            found.wrong.append(f"{ours} {_sides(place)} <- {theirs} {_sides(value)}")
        elif value.is_floating_point() and not bool(value.isfinite().all()):
            found.wrong.append(f"{ours} <- {theirs}: values that are not finite")
        else:
            found.tensors[ours] = value.to(place.dtype).contiguous()
            found.mapped.append(Mapped(ours, theirs, tuple(place.shape), note))
    _sort_rest(found, own, names, {name: tensor for name, tensor in tensors.items() if name not in taken}, kind)
    return found


def _fill_or_miss(found: Match, ours: str, theirs: str | None, place: Tensor, kind: Kind) -> None:
    if ours.endswith(".num_batches_tracked"):
        found.tensors[ours] = torch.zeros_like(place, device="cpu")
        found.mapped.append(Mapped(ours, None, (), "0: the file does not count batches"))
    elif kind == "tensorflow" and theirs is not None and theirs.endswith("/BatchNorm/gamma"):
        found.tensors[ours] = torch.ones_like(place, device="cpu")
        found.mapped.append(Mapped(ours, None, tuple(place.shape), "ones: TF-slim's batch norm has no gamma"))
    else:
        found.missing.append(f"{ours} {_sides(place)}" + (f" <- {theirs}" if theirs else ""))


def _sort_rest(found: Match, own: Mapping[str, Tensor], names: Names, rest: Mapping[str, Tensor], kind: Kind) -> None:
    """Their auxiliary head is dropped for a network built without one; anything else left over is an error."""
    of_head = tuple(f"{theirs}{'.' if kind == 'torch' else '/'}" for ours, theirs in names.items() if ours.startswith(AUX_HEAD))
    without_head = not any(name.startswith(AUX_HEAD) for name in own)
    for name, tensor in rest.items():
        if without_head and name.startswith(of_head):
            found.dropped[name] = "auxiliary head; the network is built without one"
        else:
            found.left_over.append(f"{name} {_sides(tensor)}")


def _sides(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"
