"""The networks: a table of names, and `build_model`.

Importing this package imports no torch, so that reading a recipe or printing help stays quick.
To add a family of networks: a module beside these with a table FAMILY as theirs, and nothing else.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

ResidualUnit = Literal["original", "bottleneck"]

# `timm/resnet50` is timm's resnet50, where timm is installed.
TIMM_PREFIX = "timm/"


class NetworkArguments(TypedDict, total=False):
    """The keyword arguments of `build_model`."""

    name: Required[str]
    num_classes: int
    width: float
    dropout: float
    drop_path: float
    batch_norm_momentum: float
    batch_norm_eps: float
    input_px: int
    aux_head: bool | None
    residual_scale: float | tuple[float, float, float] | None
    residual_unit: ResidualUnit | None
    shortcut: bool
    extra_batch_norm: bool


@dataclass(frozen=True)
class ModelSpec:
    """A network in the table.

    `place` is module and class, `arguments` those of its constructor that make it this network. `default_input_px` is the paper's image side,
    `min_input_px` the smallest that passes the strides. `source` is paper and figure. The errors are the Inception-v4 paper's:
    percent, single crop, on the validation images that are not blacklisted; None where it prints none.

    The rest are the defaults of the network's options; None for a network without the option.
    The auxiliary head needs images of at least `aux_head_min_input_px`.
    """

    place: str
    default_input_px: int
    min_input_px: int
    source: str
    paper_top1_error_percent: float | None = None
    paper_top5_error_percent: float | None = None
    aux_head: bool | None = None
    aux_head_min_input_px: int | None = None
    residual_scale: tuple[float, float, float] | None = None
    residual_unit: ResidualUnit | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **arguments: Any) -> nn.Module:
        """The network, with the flat arguments of `build_model` that it takes. Imports torch."""
        module, _, name = self.place.partition(":")
        network: nn.Module = getattr(importlib.import_module(module), name)(**self.arguments, **arguments)
        return network


def _families() -> dict[str, ModelSpec]:
    """The networks of the modules beside this one, each module's as its table FAMILY says.

    The tables are read as text: importing such a module would import torch. What a network leaves out is the family's.
    """
    found: dict[str, ModelSpec] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        table = re.search(r"^FAMILY = (\{$.*?^\})$", file.read_text(encoding="utf-8"), re.M | re.S)
        if table:
            family = ast.literal_eval(table[1])  # allowed: eval( (of literals: nothing is run)
            networks, place = family.pop("networks"), f"{__name__}.{file.stem}:{family.pop('class')}"
            found |= {name: ModelSpec(place, **family | own) for name, own in networks.items()}
    return found


MODELS = _families()


def build_model(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    batch_norm_momentum: float = 3e-4,
    batch_norm_eps: float = 1e-3,
    input_px: int | None = None,
    aux_head: bool | None = None,
    residual_scale: float | tuple[float, float, float] | None = None,
    residual_unit: ResidualUnit | None = None,
    shortcut: bool = True,
    extra_batch_norm: bool = False,
) -> nn.Module:
    """Build the network `name` of MODELS, initialised from torch's global random state: seed that first.

    The first weights are TF-slim's, but for Inception-ResNets, which have those of Inception-v4 (docs/networks.md).
    `timm/NAME` is a network of timm, initialised as timm does (see `timm_network.build_timm_network`).

    The network takes images (N, 3, H, W) and gives logits (N, num_classes); in training with an auxiliary head it gives
    (logits, auxiliary logits). `batch_norm_momentum` is torch's: 1 - TensorFlow's decay. Only the auxiliary head
    depends on `input_px`. None stands for the network's default. Raises RecipeError for an unknown name and for an
    option that the network does not have, ValueError for an argument out of its range, EnvironmentFault where timm is wanted and
    not to be had.
    """
    problem = option_problem(
        name,
        width=width,
        input_px=input_px,
        aux_head=aux_head,
        residual_scale=residual_scale,
        residual_unit=residual_unit,
        drop_path=drop_path,
        shortcut=shortcut,
        extra_batch_norm=extra_batch_norm,
    )
    if problem:
        raise RecipeError(*problem)
    common = {
        "num_classes": num_classes,
        "dropout": dropout,
        "batch_norm_momentum": batch_norm_momentum,
        "batch_norm_eps": batch_norm_eps,
    }
    if is_timm(name):
        from inceptionctl.models.timm_network import build_timm_network

        return build_timm_network(name, input_px=input_px, **common)  # type: ignore[arg-type]
    spec = find_spec(name)
    own: dict[str, Any] = {}
    if spec.aux_head is not None:
        own["aux_head"] = spec.aux_head if aux_head is None else aux_head
        own["input_px"] = input_px or spec.default_input_px
    if spec.residual_scale is not None:
        own["residual_scale"] = spec.residual_scale if residual_scale is None else residual_scale
        own |= {"shortcut": shortcut, "extra_batch_norm": extra_batch_norm}
    if spec.residual_unit is not None:
        own["residual_unit"] = residual_unit or spec.residual_unit
    network = spec.build(width=width, **common, **own)
    if drop_path > 0.0:
        from inceptionctl.models.layers import set_drop_path

        set_drop_path(network, drop_path)
    return network


def is_timm(name: str) -> bool:
    """Whether `name` is written as a network of timm, known there or not."""
    return name.startswith(TIMM_PREFIX) and name != TIMM_PREFIX


def find_spec(name: str) -> ModelSpec:
    """The entry of MODELS. Raises RecipeError naming the nearest."""
    spec = MODELS.get(name)
    if spec is None:
        raise RecipeError(f"unknown model {name!r}", hint_of_name(name))
    return spec


def hint_of_name(name: str) -> str:
    """A hint for an unknown name: another program's spelling, the nearest name, or a network of timm."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().removeprefix(TIMM_PREFIX).partition(".")[0])
    if plain in _ELSEWHERE:
        own, why = _ELSEWHERE[plain]
        return f"it is `{own}` here{why}"
    spelt = {re.sub(r"[^a-z0-9]", "", own): own for own in MODELS}
    if plain in spelt:
        return f"it is written `{spelt[plain]}`"
    nearest = difflib.get_close_matches(name.lower(), MODELS, n=1)
    guess = f"did you mean `{nearest[0]}`?" if nearest else f"there are {', '.join(MODELS)}."
    return f"{guess} Networks of timm are written timm/NAME: `{TIMM_PREFIX}resnet50d`"


# Names of timm, torchvision, Keras and TF-slim, in letters and digits alone -> ours, and why that one.
_ELSEWHERE = {
    **{
        f"resnet{depth}": (f"resnet_{depth}_v1_5", f", as timm and torchvision have it; `resnet_{depth}` is the paper's")
        for depth in (50, 101, 152)
    },
    "inceptionv2": ("bn_inception", ": TF-slim's inception_v2 is BN-Inception"),
    "inceptionbn": ("bn_inception", ""),
    "batchnorminception": ("bn_inception", ""),
    "tfinceptionv3": ("inception_v3", ""),
    "inceptionresnet": ("inception_resnet_v2", ", or `inception_resnet_v1`"),
    "irv1": ("inception_resnet_v1", ""),
    "irv2": ("inception_resnet_v2", ""),
    "ensadvinceptionresnetv2": ("inception_resnet_v2_tf_slim", ": its weights are of TF-slim's network"),
    "tfinceptionresnetv2": ("inception_resnet_v2_tf_slim", ""),
}


def option_problem(
    name: str,
    *,
    width: float,
    input_px: int | None,
    aux_head: bool | None,
    residual_scale: float | tuple[float, float, float] | None,
    residual_unit: ResidualUnit | None,
    drop_path: float = 0.0,
    shortcut: bool = True,
    extra_batch_norm: bool = False,
) -> tuple[str, str] | None:
    """What is wrong with these options of the network `name`, and a hint; None if nothing is.

    The message opens with the option. Networks of timm are only checked when they are built. Raises RecipeError
    for an unknown name.
    """
    spec = None if is_timm(name) else find_spec(name)
    if spec is None and width != 1.0:
        return (
            f"width: {name} has the one width that timm gives it, got {width:g}",
            "leave width at 1.0, or name a narrower network",
        )
    if drop_path > 0.0 and (spec is None or (spec.residual_scale is None and spec.residual_unit is None)):
        having = [other for other, its in MODELS.items() if its.residual_scale is not None or its.residual_unit is not None]
        return f"drop_path: {name} has no residual units of ours to drop", f"these networks have them: {', '.join(having)}"
    if spec and input_px is not None and input_px < spec.min_input_px:
        return f"input_px {input_px} is too small for {name}: at least {spec.min_input_px}", "choose larger images"
    for option, given, lacking, known_by in (
        ("aux_head", bool(aux_head), "no auxiliary head", "aux_head"),
        ("residual_scale", residual_scale is not None, "no residuals to scale", "residual_scale"),
        ("residual_unit", residual_unit is not None, "no residual units to choose", "residual_unit"),
        ("shortcut", not shortcut, "no residual blocks without the addition", "residual_scale"),
        ("extra_batch_norm", extra_batch_norm, "no place for it", "residual_scale"),
    ):
        if given and getattr(spec, known_by, None) is None:
            having = [other for other, its in MODELS.items() if getattr(its, known_by) is not None]
            return f"{option}: {name} has {lacking}", f"these networks have it: {', '.join(having)}"
    smallest = spec.aux_head_min_input_px if spec and (spec.aux_head if aux_head is None else aux_head) else None
    if smallest is not None and input_px is not None and input_px < smallest:
        return (
            f"aux_head of {name} needs input_px of at least {smallest}, got {input_px}",
            f"set aux_head to false, or input_px to {smallest} or more",
        )
    return None
