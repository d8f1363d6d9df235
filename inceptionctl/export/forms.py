"""What every export format gives: how to write it, and how to read it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Opened:
    """An export or a checkpoint that can be asked for logits."""

    description: Description
    logits: Logits
    """Images float32 [N, 3, px, px], normalised, on the CPU, any N -> logits float32 [N, num_classes] on the CPU."""


@dataclass(frozen=True)
class Exporter:
    """A format: `file` is the name of its file, `write` makes the content of its files, `open` reads it from a path again.

    In `file` {network} stands for the network's name. `write` leaves the network as it was. `open` raises CheckpointError when the
    file is damaged or not of inceptionctl. `client` gives the program that the file is for, in words, and what it computes, where that is
    another than `open` asks; an export is compared with that one. `remarks` says what the files leave out of a network.
    """

    file: str
    write: Callable[[Trained, Description], dict[str, bytes]]
    open: Callable[[Path, torch.device], Opened]
    client: Callable[[Path], tuple[str, Logits]] | None = None
    remarks: Callable[[Trained], list[str]] = lambda trained: []

    def of(self, trained: Trained) -> Exporter:
        """The same with the network's name in `file`."""
        return replace(self, file=self.file.format(network=trained.recipe.model.name.replace("/", "_")))
