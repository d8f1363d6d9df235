"""Read a file of another program as tensors by name. Nothing in the file is run: safetensors, weights_only, TensorFlow's reader."""

from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inceptionctl.errors import CheckpointError
from inceptionctl.nearby import did_you_mean
from inceptionctl.weights.tf_checkpoint import find_checkpoint, read_checkpoint

Which = Literal["ema", "raw"]

# Under these keys training programs keep a state dict beside other things; the first that is there is taken, as timm does.
STATE_KEYS: dict[Which, tuple[str, ...]] = {
    "ema": ("state_dict_ema", "model_ema", "state_dict", "model"),
    "raw": ("state_dict", "model"),
}
# What torch.compile and DistributedDataParallel put before every name, in either order.
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
HINT = "name a .safetensors, .pth or .pt file with a state dict, or a TensorFlow checkpoint (.ckpt or .ckpt.index)"


@dataclass(frozen=True)
class Content:
    """What a file holds: tensors by their names, and `set_aside`: names of what are no weights, each with the reason."""

    kind: Literal["torch", "tensorflow"]
    tensors: dict[str, Tensor]
    set_aside: dict[str, str] = field(default_factory=dict)


def read(path: Path, which: Which) -> Content:
    """The weights in a file; `which` chooses where a state dict of averages lies beside the last weights.

    Raises CheckpointError for a file that is missing, damaged, no state dict, or holds code; EnvironmentFault where TensorFlow is
    needed and missing.
    """
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return Content("tensorflow", *read_checkpoint(checkpoint))
    if not path.is_file():
        what = f"{path} holds no TensorFlow checkpoint" if path.exists() else f"no file {path}"
        raise CheckpointError(what, did_you_mean(path) + HINT)
    state, set_aside = _state_dict(_safetensors(path) if _is_safetensors(path) else _pickled(path), which, path)
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = str(key)
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        else:
            set_aside[name] = f"no tensor but {type(value).__name__}"
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors", HINT)
    return Content("torch", tensors, set_aside)


def _state_dict(loaded: Any, which: Which, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} is no state dict but {type(loaded).__name__}", HINT)
    for key in STATE_KEYS[which]:
        if isinstance(loaded.get(key), dict):
            return loaded[key], {str(other): f"beside {key!r}, which was taken" for other in loaded if other != key}
    return loaded, {}


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except SafetensorError as error:
        raise CheckpointError(f"cannot read {path}: {error}", "fetch the file again") from None
    return tensors


def _pickled(path: Path) -> Any:
    try:
        # timm's training checkpoints keep their arguments in a Namespace, which holds values and no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)  # allowed: torch.load(
    except OSError:
        raise
    except Exception as error:  # whatever zipfile, the unpickler and torch's readers raise for a bad file
        code = re.findall(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise CheckpointError(
                f"{path} holds more than tensors: reading it would run code ({code[0]}); nothing of it was run",
                "save the state dict alone, with torch.save(model.state_dict(), FILE) or as .safetensors",
            ) from None
        raise CheckpointError(f"torch cannot read {path} as tensors: it is damaged or of another kind", HINT) from None
