"""`inceptionctl data preview` as a call: a sheet of training images as the network gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from inceptionctl.data.transforms import TrainTransforms

CELL_PX = 224
_MARGIN_PX, _LINE_PX = 6, 13


@dataclass(frozen=True)
class PreviewRequest:
    """Which images of which recipe, and where the sheet goes."""

    recipe: str
    """Bundled name or path."""
    output: Path
    """A PNG or JPEG file."""
    settings: tuple[str, ...] = ()
    """`key=value`, as --set takes them."""
    images: int = 24
    """The first of the first epoch."""
    columns: int = 6


@dataclass(frozen=True)
class Preview:
    """What is on the sheet."""

    output: Path
    captions: list[tuple[str, str]]
    """Of each image its class, and what was drawn for it."""


def preview(request: PreviewRequest) -> Preview:
    """Write the sheet. Raises RecipeError for a file of another kind, DataError for images that cannot be opened."""
    if request.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise RecipeError(f"--output {request.output} is no picture", "name a .png or .jpg file")
    from inceptionctl.recipe import load_recipe
    from inceptionctl.train.inputs import loader_settings, train_transforms
    from inceptionctl.train.preflight import open_images

    recipe = load_recipe(request.recipe, request.settings)
    train, _ = open_images(recipe)
    import torch

    from inceptionctl.cores import usable_cores
    from inceptionctl.data.loaders import TrainLoader
    from inceptionctl.data.sampler import BatchSampler

    count, seed = min(request.images, len(train)), recipe.train.seed
    size = count + count % 2  # mixup and CutMix take pairs
    sampler = BatchSampler(seed=seed, global_batch_size=size, micro_batch_size=size, num_steps=1, sampling=recipe.data.sampling)
    transforms = train_transforms(recipe)
    settings = loader_settings(recipe, torch.device("cpu"), usable_cores())
    loader = TrainLoader(train, sampler, transforms, settings)
    batch = next(loader)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transforms.mean, transforms.std))
    levels = (255 * (batch.images.float() * std + mean)).round().clamp(0, 255).to(torch.uint8)
    pixels = levels[:count].permute(0, 2, 3, 1).contiguous().numpy()
    names = [train.classes[label] for label in batch.labels[:count].tolist()]
    loader.close()
    words = zip(
        _drawn(transforms, seed, count), _mixed(transforms, seed, [train.classes[k] for k in batch.labels]), strict=False
    )
    captions = [(name, ", ".join(filter(None, drawn))) for name, drawn in zip(names, words, strict=True)]
    request.output.parent.mkdir(parents=True, exist_ok=True)
    _sheet(pixels, captions, request.columns).save(request.output)
    return Preview(request.output, captions)


def _drawn(transforms: TrainTransforms, seed: int, count: int) -> list[str]:
    """What is drawn for each image besides its crop."""
    from inceptionctl.data.colour import drawn_changes
    from inceptionctl.data.sampler import uniforms
    from inceptionctl.data.transforms import NUM_UNIFORMS, chosen_flips

    drawn = uniforms(seed, 0, count, NUM_UNIFORMS)
    flips, changes = chosen_flips(transforms, drawn), drawn_changes(transforms, drawn)
    neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    words = [[one] for one in ([""] * count)]
    for augmentation in transforms.augmentations:
        told = augmentation.words(uniforms(seed, 0, count, augmentation.NUM_UNIFORMS, augmentation.stream()))
        words = [[*before, one] for before, one in zip(words, told, strict=True)]
    for i in range(count):
        words[i] += [name for name, flipped in zip(("flip", "upside down"), flips[i], strict=True) if flipped]
        words[i] += [f"{name} {values[i]:.2f}" for name, values in changes.items() if values[i] != neutral[name]]
    return [", ".join(filter(None, one)) for one in words]


def _mixed(transforms: TrainTransforms, seed: int, names: list[str]) -> list[str]:
    """How each image is mixed with its partner, which stands beside it, and what weight its own class keeps; of an even number."""
    import numpy as np

    from inceptionctl.data.mix import drawn_pairs

    if transforms.mix is None:
        return [""] * len(names)
    pairs = drawn_pairs(transforms.mix, seed, 0, np.zeros(len(names), np.int64), transforms.input_px)
    words = []
    for i in range(len(names)):
        weight, method = pairs.weights[i // 2], "CutMix" if pairs.is_cut[i // 2] else "mixup"
        side = "next" if i % 2 == 0 else "previous"
        words.append(f"{method} {weight:.2f} with the {side} ({names[i ^ 1]})" if weight < 1.0 else "")
    return words


def _sheet(pixels: NDArray[np.uint8], captions: list[tuple[str, str]], columns: int) -> Image:
    import textwrap

    from PIL import Image, ImageDraw

    lines = [[name, *textwrap.wrap(drawn, CELL_PX // 6)] for name, drawn in captions]
    text_px = _LINE_PX * max(map(len, lines)) + _MARGIN_PX
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    across, down = CELL_PX + _MARGIN_PX, CELL_PX + text_px + _MARGIN_PX
    sheet = Image.new("RGB", (columns * across + _MARGIN_PX, rows * down + _MARGIN_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(pixels):
        left, top = _MARGIN_PX + i % columns * across, _MARGIN_PX + i // columns * down
        sheet.paste(Image.fromarray(image).resize((CELL_PX, CELL_PX), Image.Resampling.BILINEAR), (left, top))
        for k, line in enumerate(lines[i]):
            pen.text((left, top + CELL_PX + 3 + k * _LINE_PX), line, fill="black" if k == 0 else "#666666")
    return sheet
