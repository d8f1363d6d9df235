"""What an evaluation, an export or a prediction runs on: the first GPU, or the CPU with all its threads."""

from __future__ import annotations

import torch

from inceptionctl.cores import usable_cores
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.distributed.session import Machine
from inceptionctl.recipe.data_section import DataSection
from inceptionctl.train.step import allow_tf32

__all__ = ["Machine", "claim_machine", "loading_of"]


def loading_of(machine: Machine, data: DataSection, device: torch.device) -> LoaderSettings:
    """How images are read and decoded for a network on `device`. A run from a GPU can be evaluated where there is none."""
    on_gpu = device.type == "cuda"
    return LoaderSettings(
        num_threads=data.num_threads or machine.num_threads,
        seconds_to_read=data.read_timeout_seconds,
        device_id=device.index if on_gpu else None,
        decode="mixed" if on_gpu and data.decode != "cpu" else "cpu",
    )


def claim_machine() -> Machine:
    """Take cuda:0 if there is a GPU, else the CPU; torch computes with every core that this process may run on.

    What is fp32 is computed so, as exports are; a checkpoint's network goes by its recipe's `train.tf32`.
    """
    allow_tf32(False)
    num_threads = usable_cores()
    torch.set_num_threads(num_threads)
    return Machine(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), num_threads)
