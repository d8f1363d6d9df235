"""What defines an export format: how to write it, and how to read it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description

Logits = Callable[[Tensor], Tensor]
Client = Callable[[Path], tuple[str, Logits]]
"""Gives the name of the program that runs a file just written, and its logits. Raises CheckpointError."""


@dataclass(frozen=True)
class Opened:
    """An export or a checkpoint ready for inference."""

    description: Description
    logits: Logits
    """Images float32 [N, 3, px, px], normalised, on the CPU, any N -> logits float32 [N, num_classes] on the CPU.

    Where the description says `pixels_in`: pictures uint8 [N, height, width, 3] -> logarithms of probabilities."""


@dataclass(frozen=True)
class Exporter:
    """A format: `file` is the name of its file, `write` makes the content of its files, `open` reads it from a path again.

    In `file` {network} stands for the network's name. `write` leaves the network as it was. `open` raises CheckpointError when the
    file is damaged or not of inceptionctl. `client` runs the program that the file is for, if `open` uses another;
    the export is compared in that one and in those of `also`. `remarks` says what the files leave out of a network.

    Where `noted` is given, the export has fewer bits than the checkpoint: its accuracy is compared instead of its logits, and
    `noted` adds the measurement to the content of its file.
    """

    file: str
    write: Callable[[Trained, Description], dict[str, bytes]]
    open: Callable[[Path, torch.device], Opened]
    client: Client | None = None
    remarks: Callable[[Trained], list[str]] = lambda trained: []
    takes_pixels: bool = False
    """Whether the file takes decoded pictures and returns probabilities."""
    noted: Callable[[bytes, Description], bytes] | None = None
    also: tuple[Client, ...] = ()

    def of(self, trained: Trained) -> Exporter:
        """A copy with the network's name in `file`."""
        return replace(self, file=self.file.format(network=trained.recipe.model.name.replace("/", "_")))


def logits_of(model: nn.Module, device: torch.device) -> Logits:
    """The `logits` of an `Opened`, for a network of ours on a device."""

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        result: Tensor = model(images.to(device)).float().cpu()
        return result

    return logits
