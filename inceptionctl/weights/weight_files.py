"""Read a file of another program as tensors by name. Nothing in the file is run: safetensors, weights_only, TensorFlow's reader.

TensorFlow reads its own checkpoints, of both formats: V1 (one file) and V2 (`.index` and `.data-...`). It does so in a child process: it
takes seconds to import, talks to descriptor 2, and brings an OpenMP and a protobuf that nothing else here should meet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import inceptionctl
from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.nearby import did_you_mean

PROGRAM = ("-m", "inceptionctl.weights.tf_process")
# The end of a table file (V1, and the index of V2), as LevelDB writes it.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
PARTS = re.compile(r"\.(index|data-\d{5}-of-\d{5}|meta)$")


def find_checkpoint(path: Path) -> Path | None:
    """TensorFlow's name of the checkpoint at a path; None if there is none.

    The path is that name itself (`model.ckpt`, `model.ckpt-1000`), one of the files behind it, or a folder of checkpoints.
    """
    if path.is_dir():
        return path if (path / "checkpoint").is_file() else None
    prefix = path.with_name(PARTS.sub("", path.name))
    if prefix.with_name(f"{prefix.name}.index").is_file():
        return prefix
    return path if path.is_file() and _is_table(path) else None


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        return file.read() == TABLE_MAGIC


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(variables by name, names of non-numeric ones with the reason).

    Raises EnvironmentFault without TensorFlow, CheckpointError when it cannot read the checkpoint.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise EnvironmentFault(
            f"{checkpoint} is a TensorFlow checkpoint, and TensorFlow, which reads it, is not installed",
            "pip install 'inceptionctl[tf-slim]', or convert the checkpoint to .safetensors on a machine that has TensorFlow",
        )
    with tempfile.TemporaryDirectory(prefix="inceptionctl-") as folder:
        file = Path(folder) / "variables.safetensors"
        answer = _ask(checkpoint, file)
        if "error" in answer:
            raise CheckpointError(f"TensorFlow cannot read {checkpoint}: {answer['error']}", "fetch the checkpoint again")
        # Copied: the file goes with the folder.
        tensors = {name: tensor.clone() for name, tensor in load_file(str(file)).items()}
    return tensors, answer["set_aside"]


def _ask(checkpoint: Path, file: Path) -> dict[str, dict[str, str]]:
    # -P and our own place first: a user's working directory may hold another `inceptionctl` or `tensorflow`.
    ours = str(Path(inceptionctl.__path__[0]).parent)
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", *PROGRAM, str(checkpoint), str(file)]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if child.returncode != 0:
        said = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise EnvironmentFault(f"TensorFlow does not start: {said[-1]}", "pip install --force-reinstall tensorflow-cpu")
    answer: dict[str, dict[str, str]] = json.loads(child.stdout.splitlines()[-1])
    return answer


Which = Literal["ema", "raw"]

# Keys under which training programs save a state_dict; the first present is taken, as in timm.
STATE_KEYS: dict[Which, tuple[str, ...]] = {
    "ema": ("state_dict_ema", "model_ema", "state_dict", "model"),
    "raw": ("state_dict", "model"),
}
# Prefixes of torch.compile and DistributedDataParallel, in either order.
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
HINT = "name a .safetensors, .pth or .pt file with a state_dict, or a TensorFlow checkpoint (.ckpt or .ckpt.index)"


@dataclass(frozen=True)
class Content:
    """Contents of a file: tensors by name, and `set_aside`: names of other entries, each with the reason."""

    kind: Literal["torch", "tensorflow"]
    tensors: dict[str, Tensor]
    set_aside: dict[str, str] = field(default_factory=dict)


def read(path: Path, which: Which) -> Content:
    """The weights in a file; `which` chooses between EMA and last weights if it has both.

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
            set_aside[name] = f"not a tensor but {type(value).__name__}"
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors", HINT)
    return Content("torch", tensors, set_aside)


def _state_dict(loaded: Any, which: Which, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} is not a state_dict but {type(loaded).__name__}", HINT)
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
                "save only the state_dict, with torch.save(model.state_dict(), FILE) or as .safetensors",
            ) from None
        raise CheckpointError(f"torch cannot read {path} as tensors: it is damaged or of another kind", HINT) from None
