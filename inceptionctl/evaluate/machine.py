"""What an evaluation, an export or a prediction runs on: the first GPU, or the CPU with all its threads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inceptionctl.cores import usable_cores
from inceptionctl.data.loaders import Decode
from inceptionctl.train.precision import allow_tf32


@dataclass(frozen=True)
class Machine:
    """A device and the number of CPU threads that this process may use."""

    device: torch.device
    num_threads: int

    def decode(self, wanted: str) -> Decode:
        """Where images are decoded, for a recipe's `data.decode`. A run from a GPU can be evaluated where there is none."""
        return "cpu" if wanted == "cpu" or self.device.type == "cpu" else "mixed"


def claim_machine() -> Machine:
    """Take cuda:0 if there is a GPU, else the CPU; torch computes with every core that this process may run on.

    What is fp32 is computed so, as exports are; a checkpoint's network goes by its recipe's `train.tf32`.
    """
    allow_tf32(False)
    num_threads = usable_cores()
    torch.set_num_threads(num_threads)
    return Machine(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), num_threads)
