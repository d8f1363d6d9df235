"""The networks: a table of names, and `build_model`.

Importing this package imports no torch, so that reading a recipe or printing help stays quick: the builders import it.
To add a network: a module of its own beside these, a `_build_...` function here, a line in MODELS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """A network that recipes can name.

    `build` takes the flat arguments of `build_model` and imports torch. `default_input_px` is the paper's image side,
    `min_input_px` the smallest that passes the strides. `source` is paper and figure. The errors are the paper's: percent,
    single crop, on the validation images that are not blacklisted.
    """

    build: Callable[..., nn.Module]
    default_input_px: int
    min_input_px: int
    source: str
    paper_top1_error_percent: float
    paper_top5_error_percent: float


def _build_inception_v4(**arguments: Any) -> nn.Module:
    from inceptionctl.models.inception_v4 import inception_v4

    return inception_v4(**arguments)


MODELS: dict[str, ModelSpec] = {
    "inception_v4": ModelSpec(
        build=_build_inception_v4,
        default_input_px=299,
        min_input_px=75,
        source="Szegedy et al., arXiv 1602.07261, Figure 9",
        paper_top1_error_percent=20.0,
        paper_top5_error_percent=5.0,
    ),
    # The same network at the same cost, but three chains of 1x7 / 7x1 and 1x3 / 3x1 run the other way round, as in the weights
    # that TF-slim published and in the ports of them: those fit this one alone.
    "inception_v4_tf_slim": ModelSpec(
        build=partial(_build_inception_v4, kernel_order="tf_slim"),
        default_input_px=299,
        min_input_px=75,
        source="Szegedy et al., arXiv 1602.07261, Figure 9, with the kernel order of TF-slim's nets/inception_v4.py",
        paper_top1_error_percent=20.0,
        paper_top5_error_percent=5.0,
    ),
}


def build_model(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    batch_norm_momentum: float = 3e-4,
    batch_norm_eps: float = 1e-3,
) -> nn.Module:
    """Build the network `name` of MODELS, initialised as TF-slim does from torch's global random state: seed that first.

    The network takes images (N, 3, H, W) and gives logits (N, num_classes). `batch_norm_momentum` is torch's: 1 - TensorFlow's
    decay. Raises RecipeError for an unknown name, ValueError for an argument out of its range.
    """
    spec = MODELS.get(name)
    if spec is None:
        nearest = difflib.get_close_matches(name, MODELS, n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"the models are: {', '.join(MODELS)}"
        raise RecipeError(f"unknown model {name!r}", hint)
    return spec.build(
        num_classes=num_classes,
        width=width,
        dropout=dropout,
        batch_norm_momentum=batch_norm_momentum,
        batch_norm_eps=batch_norm_eps,
    )
