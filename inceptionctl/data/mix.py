"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of neighbouring places of the stream: 0 with 1, 2 with 3, and so on.

Partners lie in one micro batch whatever the ranks, and what is drawn for a pair depends on its place alone. So a mixed image is a pure
function of (seed, place), like every other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.sampler import uniforms

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_STREAM = 1 << 32  # above those of the augmentations
_NUM_UNIFORMS = 5  # whether at all, which of the two, how much, and the centre of the box
_GRID = 4097


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How pairs are mixed."""

    mixup_alpha: float
    """Both parameters of the beta distribution of an image's weight; 0: no mixup."""
    cutmix_alpha: float
    """The same of the area that an image keeps; 0: no CutMix."""
    probability: float
    """That a pair is mixed."""
    cutmix_probability: float
    """That a mixed pair takes CutMix, where there are both."""
    until_epoch: int | None
    """Pairs of this epoch and later ones are left alone; None mixes to the end."""


@dataclass(frozen=True)
class Pairs:
    """What is done to P pairs of images of `px` squared."""

    weights: Floats
    """[P]: the weight of each image's own label; 1 leaves the pair alone."""
    boxes: NDArray[np.int64]
    """[P, 4]: top, left, bottom, right in pixels of what CutMix swaps; empty for mixup."""
    is_cut: NDArray[np.bool_]
    """[P]."""


def drawn_pairs(mix: Mix, seed: int, start: int, epochs: NDArray[np.int64], px: int) -> Pairs:
    """For the places from `start` on, which is even, of these `epochs` [2 P]. Raises ValueError for half a pair."""
    if start % 2 or len(epochs) % 2:
        raise ValueError(f"the places {start} to {start + len(epochs)} break up a pair")
    drawn = uniforms(seed, start // 2, len(epochs) // 2, _NUM_UNIFORMS, _STREAM).astype(np.float64)
    mixed = drawn[:, 0] < mix.probability
    if mix.until_epoch is not None:
        mixed &= epochs[::2] < mix.until_epoch
    share = mix.cutmix_probability if mix.mixup_alpha > 0.0 and mix.cutmix_alpha > 0.0 else float(mix.cutmix_alpha > 0.0)
    is_cut = mixed & (drawn[:, 1] < share)
    weights = np.ones(len(drawn))
    boxes = np.zeros((len(drawn), 4), np.int64)
    blended = mixed & ~is_cut
    weights[blended] = _beta(mix.mixup_alpha, drawn[blended, 2])
    boxes[is_cut] = _boxes(_beta(mix.cutmix_alpha, drawn[is_cut, 2]), drawn[is_cut, 3:], px)
    # By the pixels that really change hands: the box is cut off at the edge of the image.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    weights[is_cut] = 1.0 - areas[is_cut] / px**2
    return Pairs(weights.astype(np.float32), boxes, is_cut)


def _boxes(kept: Doubles, centres: Doubles, px: int) -> NDArray[np.int64]:
    half = np.sqrt(1.0 - kept)[:, None] * px / 2
    corners = np.concatenate([centres * px - half, centres * px + half], axis=1)
    return np.clip(np.round(corners), 0, px).astype(np.int64)


def _beta(alpha: float, u: Doubles) -> Doubles:
    """Quantiles of Beta(alpha, alpha), the same on every machine: numpy's own draws may change from one version to the next."""
    levels, values = _quantiles(alpha) if alpha > 0.0 else (np.array([0.0, 0.5]), np.array([0.0, 0.0]))
    lower = np.interp(np.minimum(u, 1.0 - u), levels, values)
    return np.where(u < 0.5, lower, 1.0 - lower)


@cache
def _quantiles(alpha: float) -> tuple[Doubles, Doubles]:
    """(probabilities in [0, 0.5], values in [0, 0.5]); the density is integrated over t = x^alpha, in which it has no pole."""
    t = np.linspace(0.0, 0.5**alpha, _GRID)
    values = t ** (1.0 / alpha)
    density = (1.0 - values) ** (alpha - 1.0)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return 0.5 * below / below[-1], values


def mixed(images: Tensor, labels: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """(images, partners' labels, weights of the own labels) of [2 P, 3, px, px] and int64 [2 P]; `images` are changed in place."""
    weights = _on(images.device, np.repeat(pairs.weights, 2))
    for place in np.flatnonzero(pairs.is_cut):
        top, left, bottom, right = pairs.boxes[place].tolist()
        first, second = (images[2 * place + k, :, top:bottom, left:right] for k in (0, 1))
        swapped = first.clone()
        first.copy_(second)
        second.copy_(swapped)
    blended = np.flatnonzero(~pairs.is_cut & (pairs.weights < 1.0))
    if len(blended):
        own, partner = (_on(images.device, np.stack(both, axis=1).ravel()) for both in _both_ways(blended))
        share = weights[own].view(-1, 1, 1, 1)  # fp32, as the labels' weights are
        images[own] = (share * images[own] + (1 - share) * images[partner]).to(images.dtype)
    others = labels.view(-1, 2).flip(1).reshape(-1)
    return images, others, weights


def _both_ways(pairs: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
    """Rows of these pairs, and the same with each image's partner in its stead."""
    first, second = 2 * pairs, 2 * pairs + 1
    return (first, second), (second, first)


def _on(device: torch.device, values: NDArray[Any]) -> Tensor:
    """Without the host waiting for a GPU."""
    import torch  # whoever mixes has it; whoever reads the settings need not wait for it

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
