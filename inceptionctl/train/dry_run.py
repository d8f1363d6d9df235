"""`train --dry-run`: what a training would be, without starting it."""

from __future__ import annotations

import math

import torch
from torch import nn

from inceptionctl.console import JsonObject, size
from inceptionctl.data.progressive import sizes_in_words
from inceptionctl.models import build_model
from inceptionctl.models.summary import count_parameters, multiply_adds
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.batch import check_batch_norm, plan_batch, too_few_images, total_steps
from inceptionctl.train.engine import build_clipping, deepspeed_config
from inceptionctl.train.optim import schedule_in_words, state_names_of
from inceptionctl.train.preflight import Opened, open_images

IMAGENET_TRAIN_IMAGES, IMAGENET_VAL_IMAGES = 1_281_167, 50_000


def plan_training(recipe: Recipe, ranks: int, opened: Opened | None = None, *, data: bool = True) -> JsonObject:
    """The numbers of a training on `ranks` ranks, as JSON-like values in reading order; on the images in `opened`, if they are.

    A data set that is not on this machine, or without `data` not looked at, is no error here: ImageNet's 1,281,167 images are assumed
    for 1000 classes, and said so.
    Raises RecipeError when the batch does not fit the ranks, or is too small for batch norm.
    """
    batch = plan_batch(recipe.train.global_batch_size, ranks, recipe.train.micro_batch_size)
    check_batch_norm(recipe, batch)
    with torch.device("meta"):
        model = build_model(**recipe.model.network())
    parameters = count_parameters(model)
    head = getattr(model, "aux_head", None)
    of_head = count_parameters(head) if isinstance(head, nn.Module) else 0
    sizes = recipe.train.progressive_resizing
    images, _, source = num_images(recipe, opened, data=data)
    few = too_few_images(images, batch) if images else None
    steps = total_steps(recipe.train.epochs, images, batch.global_batch_size, recipe.train.max_steps) if images else None
    plan: JsonObject = {
        "network": f"{recipe.model.name}, {recipe.model.num_classes} classes, {recipe.model.input_px} px, width {recipe.model.width:g}",
        "parameters": parameters - of_head,
        "auxiliary_head_parameters": of_head,
        "multiply_adds": multiply_adds(model, recipe.model.input_px),
        "batch": batch.in_words(),
        "ranks": batch.ranks,
        "micro_batch_size": batch.micro_batch_size,
        "accumulation": batch.accumulation,
        "global_batch_size": batch.global_batch_size,
        "train_images": images,
        "train_images_source": source,
        "epochs": recipe.train.epochs,
        "steps": steps,
        "steps_per_epoch": round(images / batch.global_batch_size, 3) if images else None,
        **({"progressive_resizing": sizes_in_words(sizes, recipe.model.input_px)} if sizes else {}),
        "learning_rate": schedule_in_words(recipe.schedule, recipe.train.epochs),
        "optimizer": recipe.optim.model_dump(),
        "clipping": build_clipping(recipe.optim).in_words(),
        "deepspeed": deepspeed_config(batch, recipe.train.zero_stage),
        "disk_needed_bytes": disk_needed(parameters, recipe),
        "disk_needed": f"{size(disk_needed(parameters, recipe))} for checkpoints ({size(checkpoint_bytes(parameters, recipe))} each)",
        "warnings": [f"{few[0]}; {few[1]}"] if few else [],
    }
    return plan


def training_cost(recipe: Recipe, opened: Opened | None) -> dict[str, int | None]:
    """Images that a training sees, its steps, and multiply-adds: of a backward pass twice those of a forward one.

    Of a data set that is not known None; ImageNet is assumed as in `plan_training`.
    """
    number, _, _ = num_images(recipe, opened)
    recipe = recipe.with_classes(len(opened[0].classes)) if opened else recipe.with_classes()
    if number is None:
        return {"images": None, "steps": None, "multiply_adds": None}
    with torch.device("meta"):
        model = build_model(**recipe.model.network())
    batch = recipe.train.global_batch_size
    steps = total_steps(recipe.train.epochs, number, batch, recipe.train.max_steps)
    macs = 3 * multiply_adds(model, recipe.model.input_px) * steps * batch
    return {"images": steps * batch, "steps": steps, "multiply_adds": macs}


def num_images(recipe: Recipe, opened: Opened | None = None, *, data: bool = True) -> tuple[int | None, int | None, str]:
    """Training and validation images, and in words where the numbers come from; None for a data set that is not on this machine.

    Raises DataError for one that is here and damaged.
    """
    root = recipe.data.root_path
    if data and (opened or root.exists() or recipe.data.train_csv):
        train, val = opened or open_images(recipe)
        return len(train), len(val), f"counted in {root}"
    why = f"{root} is not on this machine" if data else f"{root} was not looked at"
    if recipe.model.num_classes == 1000:
        return IMAGENET_TRAIN_IMAGES, IMAGENET_VAL_IMAGES, f"assumed: ImageNet's, since {why}"
    return None, None, f"unknown: {why}" + (" (set data.root)" if data else "")


def checkpoint_bytes(num_parameters: int, recipe: Recipe) -> int:
    """Size of one checkpoint: weights, averages, and the optimizer's tensors for each weight, all in fp32."""
    return num_parameters * 4 * (2 + len(state_names_of(recipe.optim)))


def disk_needed(num_parameters: int, recipe: Recipe) -> int:
    """Bytes that the checkpoints of a run take at most: the last, those kept for good, the best, and the one being written."""
    wishes = recipe.checkpoint
    for_good = math.floor(recipe.train.epochs / wishes.keep_every_epochs) if wishes.keep_every_epochs else 0
    return checkpoint_bytes(num_parameters, recipe) * (wishes.keep_last + for_good + 1 + int(wishes.keep_best))
