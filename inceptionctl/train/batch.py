"""The batch: ranks x micro batch x accumulation = global batch, and whether batch norm can do with it. No torch at import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.recipe.schema import Recipe


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is spread; `micro_batch_size` is of one rank and one pass through the network."""

    ranks: int
    micro_batch_size: int
    accumulation: int

    @property
    def global_batch_size(self) -> int:
        """Images of one optimizer step."""
        return self.ranks * self.micro_batch_size * self.accumulation

    def in_words(self) -> str:
        """The product, as a line for people."""
        return (
            f"{counted(self.ranks, 'rank')} x {self.micro_batch_size} micro batch x {self.accumulation} accumulation"
            f" = {self.global_batch_size} global batch"
        )


def plan_batch(global_batch_size: int, ranks: int, most: int) -> BatchPlan:
    """Spread a global batch over ranks in equal micro batches of at most `most` images, as few as possible.

    Raises RecipeError with the nearest valid values when the ranks do not divide the global batch, or when a rank's share has no
    divisor near `most`: tiny micro batches would change what batch norm computes.
    """
    if global_batch_size % ranks:
        raise _cannot(
            f"a global batch of {global_batch_size} cannot be shared equally by {ranks} ranks",
            f"{_nearest_ranks(global_batch_size, ranks)}, or {_nearest_batches(global_batch_size, ranks)}",
        )
    share = global_batch_size // ranks
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    if micro * 2 < min(most, share):
        raise _cannot(
            f"a rank's share of {share} images has no divisor between {math.ceil(min(most, share) / 2)} and train.micro_batch_size {most}",
            f"set train.micro_batch_size to {_next_divisor(share, most)}, or {_nearest_batches(global_batch_size, ranks * most)}",
        )
    return BatchPlan(ranks, micro, share // micro)


def refuse_odd_pairs(recipe: Recipe, batch: BatchPlan) -> None:
    """Raise RecipeError where images are mixed in pairs and a micro batch would break one up."""
    if recipe.data.augment.mix.is_on and batch.micro_batch_size % 2:
        raise RecipeError(
            f"data.augment.mix mixes pairs of images, and a micro batch has {batch.micro_batch_size}",
            "set train.micro_batch_size and train.global_batch_size so that each micro batch is even",
        )


def _cannot(message: str, hint: str) -> RecipeError:
    return RecipeError("the batch does not fit the ranks", problems=[Problem("train.global_batch_size", message, hint)])


def _nearest_ranks(batch: int, ranks: int) -> str:
    below = max(number for number in range(1, ranks) if batch % number == 0)
    above = next((number for number in range(ranks + 1, batch + 1) if batch % number == 0), None)
    return f"use {below} or {above} ranks" if above else f"use {counted(below, 'rank')}"


def _nearest_batches(batch: int, multiple: int) -> str:
    below, above = batch // multiple * multiple, (batch // multiple + 1) * multiple
    names = [str(size) for size in (below, above) if size > 0 and size != batch]
    return f"set train.global_batch_size to {' or '.join(names)} (and scale the learning rate with it)"


def _next_divisor(share: int, most: int) -> int:
    return next(size for size in range(most, share + 1) if share % size == 0)


def too_few_images(num_images: int, batch: BatchPlan) -> tuple[str, str] | None:
    """What to say of an epoch of less than one step, and a hint; None of any other."""
    whole = batch.global_batch_size
    if num_images >= whole:
        return None
    fitting = max(num_images // batch.ranks, 1) * batch.ranks
    return (
        f"{num_images} training images are fewer than a batch of {whole}: a step takes some of them more than once, and an epoch is"
        f" {num_images / whole:.2g} of a step",
        f"set train.global_batch_size to {fitting} or less, and scale schedule.base_lr with it",
    )


def total_steps(epochs: float, num_images: int, global_batch_size: int, max_steps: int | None) -> int:
    """Optimizer steps of a training: the last one is filled up from the next epoch, so that no image of an epoch is left out."""
    steps = math.ceil(epochs * num_images / global_batch_size - 1e-9)
    return min(steps, max_steps) if max_steps else steps


def check_batch_norm(recipe: Recipe, batch: BatchPlan, option: str | None = None) -> None:
    """Raise RecipeError where micro batches of one image leave a batch norm one value a channel, which has no variance.

    The error names the smallest micro batch that works: as keys of the recipe, or as the `option` of a command that has one for it.
    Frozen norms, which take their statistics as they are, do not count.
    """
    if batch.micro_batch_size > 1:
        return
    import torch

    from inceptionctl.models import build_model
    from inceptionctl.models.summary import norms_of_one_value
    from inceptionctl.train.unfreezing import TrainedBlocks

    with torch.device("meta"):
        model = build_model(**recipe.with_classes().model.network())
    blocks = TrainedBlocks(model, recipe.model)
    blocks.enter(blocks.last_stage)
    blocks.set_modes()
    px = min({0: recipe.model.input_px, **(recipe.train.progressive_resizing or {})}.values())
    lonely = norms_of_one_value(model, px)
    if lonely:
        more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
        message = f"with micro batches of one image {lonely[0]}{more} of {recipe.model.name} at {px} px"
        raise RecipeError(
            "the batch is too small for batch norm",
            problems=[Problem(*_way_out(batch, f"{message} would normalise single values, whose variance is none", option))],
        )


def _way_out(batch: BatchPlan, message: str, option: str | None) -> tuple[str, str, str]:
    if option:
        return option, message, f"give {option} 2, the smallest that works"
    share = batch.global_batch_size // batch.ranks
    if share == 1:
        fewer = ", or use fewer ranks" if batch.ranks > 1 else ""
        return (
            "train.global_batch_size",
            message,
            f"set train.global_batch_size to {2 * batch.ranks} and train.micro_batch_size to 2, the smallest that works{fewer}",
        )
    smallest = next(size for size in range(2, share + 1) if share % size == 0)
    return "train.micro_batch_size", message, f"set train.micro_batch_size to {smallest}, the smallest that works"
