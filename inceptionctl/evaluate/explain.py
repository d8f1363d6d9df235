"""`predict --explain`: Grad-CAM, which parts of an image speak for its most likely class.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017, arXiv 1610.02391).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, in_batches
from inceptionctl.data.transforms import Preparation
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.train.inputs import preparation_of

BATCH_SIZE = 16
MOST_COLOUR = 0.65  # of a pixel, where the map is highest


@dataclass(frozen=True)
class Maps:
    """Grad-CAM of N images."""

    values: Tensor
    """float32 [N, height, width] on the CPU, as large as the images: 0 to 1, the highest of each 1; 0 where nothing speaks for the class."""
    classes: Tensor
    """The most likely class of each, int64 [N]."""
    probabilities: Tensor
    """Of these classes, float32 [N]."""


def grad_cam(model: nn.Module, images: Tensor) -> Maps:
    """Maps of the most likely class over the grid that the network's global pool gets.

    `images` are float32 [N, 3, height, width], normalised, on the device of `model`, which is in evaluation mode. Raises RecipeError for a
    network without a global pool over a grid.
    """
    grids: list[Tensor] = []

    def take(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        # Gradients begin here: what comes before the pool runs without them.
        grids.append(inputs[0].detach().requires_grad_())
        return (grids[-1],)

    pool = getattr(model, "pool", None)
    hook = pool.register_forward_pre_hook(take) if isinstance(pool, nn.Module) else None
    try:
        with torch.enable_grad():
            logits = model(images).float()
    finally:
        if hook:
            hook.remove()
    if len(grids) != 1 or grids[0].dim() != 4:
        raise RecipeError("--explain needs a network with a global pool over a grid", "leave --explain out")
    best = logits.max(dim=1)
    (slopes,) = torch.autograd.grad(best.values.sum(), grids[0])
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    maps = (weights * grids[0].detach()).sum(dim=1, keepdim=True).relu().float()
    large = nn.functional.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0]
    scale = large.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    probabilities = logits.detach().softmax(dim=1).amax(dim=1)
    return Maps((large / scale).cpu(), best.indices.cpu(), probabilities.cpu())


def explain(
    trained: Trained,
    images: ImageSet,
    which: range,
    folder: Path,
    loading: LoaderSettings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the maps of the images `which` as PNGs into `folder`: FOLDER/NAME.png, NAME being an image's below the root of all.

    Each shows the network's input on the recipe's single crop, with the class and its probability as texts of the PNG. Images that cannot be
    decoded are left out. Raises RecipeError as `grad_cam`, EnvironmentFault when the disk refuses.
    """
    preparation, bad = preparation_of(trained.recipe), BadImages(len(images))
    # The labels, which nobody knows, say which images come out of a loader that leaves out bad ones.
    numbered = replace(images, labels=np.arange(len(images), dtype=np.int32))
    done = 0
    with closing(EvalLoader(numbered, in_batches(which, BATCH_SIZE), preparation, loading, bad=bad)) as loader:
        for batch in loader:
            maps = grad_cam(trained.model, batch.images)
            for i, png in zip(batch.labels.tolist(), _pngs(batch.images, maps, preparation, trained.classes), strict=True):
                file = folder / f"{os.fsdecode(images.names[i])}.png"
                with disk_errors(file):
                    file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, png)
            done += len(batch.labels)
            on_progress(done, len(which))


def _pngs(images: Tensor, maps: Maps, preparation: Preparation, classes: tuple[str, ...]) -> Iterator[bytes]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
    seen = (255.0 * (images.float().cpu() * std + mean)).clamp(0.0, 255.0).permute(0, 2, 3, 1).numpy()
    for pixels, values, label, sure in zip(seen, maps.values.numpy(), maps.classes, maps.probabilities, strict=True):
        texts = PngInfo()
        texts.add_itxt("class", classes[int(label)])
        texts.add_itxt("probability", f"{float(sure):.6g}")
        data = io.BytesIO()
        Image.fromarray(overlaid(pixels, values)).save(data, format="PNG", pnginfo=texts)
        yield data.getvalue()


def overlaid(pixels: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map [height, width] of 0 to 1 over an image [height, width, 3] of 0 to 255: red where it is high, the image alone where it is 0."""
    colours = 255.0 * matplotlib.colormaps["turbo"](values)[..., :3]
    share = MOST_COLOUR * values[..., None]
    return np.rint((1.0 - share) * pixels + share * colours).astype(np.uint8)
