"""From a recipe to how its images are read, transformed for training and prepared for everything else."""

from __future__ import annotations

import torch

from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.mix import Mix
from inceptionctl.data.transforms import Preparation, TrainTransforms
from inceptionctl.errors import EnvironmentFault
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.step import resolve_precision


def loader_settings(recipe: Recipe, device: torch.device, num_threads: int) -> LoaderSettings:
    """What every loader of a rank shares; `num_threads` where the recipe has no number. Raises EnvironmentFault without a wanted GPU."""
    on_gpu = device.type == "cuda"
    if recipe.data.decodes_on_gpu and not on_gpu:
        raise EnvironmentFault(f"data.decode is `{recipe.data.decode}`, but there is no GPU", "set data.decode to auto or cpu")
    decode_on_gpu = on_gpu and recipe.data.decode != "cpu"
    half = not on_gpu and resolve_precision(recipe.train.precision, device) == "bf16"
    return LoaderSettings(
        num_threads=recipe.data.num_threads or num_threads,
        seconds_to_read=recipe.data.read_timeout_seconds,
        device_id=device.index if on_gpu else None,
        decode="mixed" if decode_on_gpu else "cpu",
        decode_roi=not decode_on_gpu or recipe.data.decode == "mixed_roi",
        dtype=torch.bfloat16 if half else torch.float32,
    )


def train_transforms(recipe: Recipe) -> TrainTransforms:
    """What becomes of a training image."""
    mix = recipe.data.augment.mix
    return TrainTransforms(
        input_px=recipe.model.input_px,
        mean=recipe.data.mean,
        std=recipe.data.std,
        exif_orientation=recipe.data.exif_orientation,
        augmentations=recipe.data.augment.switched_on,
        mix=Mix(**mix.model_dump()) if mix.is_on else None,
        **recipe.data.augment.builtin,
    )


def preparation_of(recipe: Recipe) -> Preparation:
    """How validation images of a recipe are prepared; exports and predictions prepare theirs likewise."""
    section = recipe.evaluate
    return Preparation(
        input_px=recipe.model.input_px,
        central_fraction=section.central_fraction,
        keep_aspect=section.keep_aspect,
        interpolation=section.interpolation,
        antialias=section.antialias,
        mean=recipe.data.mean,
        std=recipe.data.std,
        exif_orientation=recipe.data.exif_orientation,
    )
