"""Any network of timm by its name; timm is an extra and slow to import."""

from __future__ import annotations

import difflib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import nn

from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.models import TIMM_PREFIX
from inceptionctl.models.summary import Stage, multiply_adds

INSTALL = "pip install 'inceptionctl[timm]'"


def build_timm_network(
    name: str,
    *,
    num_classes: int,
    dropout: float,
    batch_norm_momentum: float,
    batch_norm_eps: float,
    input_px: int | None = None,
) -> nn.Module:
    """Build `timm.create_model` of what follows "timm/" in `name`, without weights, initialised as timm does.

    `dropout` is timm's `drop_rate`. Momentum and epsilon are set on every batch norm. A network whose input size is fixed when it
    is built is built for `input_px`. STAGES are its parts at the top; `pool` is its global pool where it has one by that name.
    It is built on the CPU even under another default device: some constructors need values, which "meta" lacks.

    Raises EnvironmentFault without a timm that can be imported, RecipeError for a name that timm does not know, for arguments that
    the network does not take, and for images of `input_px` px that it cannot take.
    """
    timm = import_timm(name)
    own, cfg = _known(name, timm)
    size = {"img_size": input_px} if input_px is not None and cfg is not None and cfg.fixed_input_size else {}
    try:
        with torch.device("cpu"):
            model: nn.Module = timm.create_model(own, pretrained=False, num_classes=num_classes, drop_rate=dropout, **size)
    except Exception as error:  # timm raises whatever its networks raise
        raise RecipeError(f"timm cannot build {name}: {_in_words(error)}", _hint_of_timm(own)) from error
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum, layer.eps = batch_norm_momentum, batch_norm_eps
    _add_what_ours_have(model)
    if input_px is not None:
        check_input(name, model, input_px)
    return model


def default_input_px(name: str) -> int:
    """Input size of timm's weights of this network, in px. Raises what `build_timm_network` raises."""
    _, cfg = _known(name, import_timm(name))
    return int(cfg.input_size[-1]) if cfg is not None else 224


def import_timm(name: str) -> ModuleType:
    """The package. Raises EnvironmentFault naming the network that needs it where it is missing or cannot be imported."""
    if importlib.util.find_spec("timm") is None:
        raise EnvironmentFault(f"{name} needs timm, which is not installed", INSTALL)
    try:
        import timm
    except Exception as error:  # a torchvision for another torch raises RuntimeError, a broken one ImportError or OSError
        raise EnvironmentFault(
            f"{name} needs timm, which is installed but cannot be imported: {_in_words(error)}",
            "torchvision must be the release, and the CPU or CUDA build, that goes with this torch",
        ) from error
    module: ModuleType = timm
    return module


def _known(name: str, timm: ModuleType) -> tuple[str, Any]:
    """timm's name of the network and its pretrained_cfg, which a few networks lack."""
    own = name.removeprefix(TIMM_PREFIX)
    if timm.is_model(own):
        try:
            return own, timm.get_pretrained_cfg(own)
        except RuntimeError as error:  # the part after the dot names weights, and timm knows none of that name
            raise RecipeError(f"timm has no {own!r}: {error}", f"leave the tag out: {TIMM_PREFIX}{own.split('.')[0]}") from None
    nearest = difflib.get_close_matches(own, timm.list_models(), n=3)
    guess = (
        f"did you mean {' or '.join(TIMM_PREFIX + near for near in nearest)}?"
        if nearest
        else "`timm.list_models()` has them all"
    )
    raise RecipeError(f"timm {timm.__version__} has no network {own!r}", guess)


def _add_what_ours_have(model: nn.Module) -> None:
    model.STAGES = tuple(Stage(part, "timm") for part, _ in model.named_children())  # type: ignore[assignment]
    pool = getattr(model, "global_pool", None)
    if isinstance(pool, nn.Module):
        # Past nn.Module's own assignment: a second name, not a second submodule, which would double the weights' names.
        object.__setattr__(model, "pool", pool)


def check_input(name: str, model: nn.Module, input_px: int) -> None:
    """Raise RecipeError where a network of timm does not take images of `input_px` px."""
    try:
        multiply_adds(model, input_px)
    except Exception as error:
        raise RecipeError(
            f"input_px: {name} does not take images of {input_px} x {input_px} px: {_in_words(error)}",
            _hint_of_timm(name.removeprefix(TIMM_PREFIX)),
        ) from error


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"


def _hint_of_timm(own: str) -> str:
    return f"timm's own settings of it: `timm.get_pretrained_cfg({own!r})`"
