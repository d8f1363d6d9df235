"""The sizes of training images by epoch, `train.progressive_resizing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from inceptionctl.models import MODELS, option_problem

if TYPE_CHECKING:
    from inceptionctl.recipe.model_section import ModelSection

KEY = "train.progressive_resizing"


def _numbered(value: object) -> object:
    # Keys of YAML and JSON come as text.
    return {int(key) if str(key).isdecimal() else key: px for key, px in value.items()} if isinstance(value, dict) else value


PxByEpoch = Annotated[dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=32)]], BeforeValidator(_numbered)]


def size_problem(model: ModelSection, px_by_epoch: Mapping[int, int]) -> tuple[str, str] | None:
    """What keeps a network from being trained on these sizes, and a hint. Networks of timm are asked when they are built."""
    own = MODELS[model.name].aux_head if model.name in MODELS else None
    if px_by_epoch and (own if model.aux_head is None else model.aux_head):
        message = (
            f"{KEY} cannot be used with an auxiliary head, whose kernel is as large as the grid that model.input_px leaves"
        )
        return message, "set model.aux_head to false"
    for epoch, px in px_by_epoch.items():
        problem = option_problem(
            model.name, width=model.width, input_px=px, aux_head=False, residual_scale=None, residual_unit=None
        )
        if problem:
            return f"{KEY} from epoch {epoch}: {problem[0]}", problem[1]
    return None
