"""Read a TensorFlow checkpoint, of both formats: V1 (one file) and V2 (`.index` and `.data-...`). TensorFlow itself does it.

In a child process: TensorFlow takes seconds to import, talks to descriptor 2, and brings an OpenMP and a protobuf that nothing else
here should meet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

import inceptionctl
from inceptionctl.errors import CheckpointError, EnvironmentFault

PROGRAM = ("-m", "inceptionctl.weights.tf_process")
# The end of a table file (V1, and the index of V2), as LevelDB writes it.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
PARTS = re.compile(r"\.(index|data-\d{5}-of-\d{5}|meta)$")


def find_checkpoint(path: Path) -> Path | None:
    """The name by which TensorFlow knows the checkpoint that a path means; None where it means none.

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
    """(variables by name, names of what is no array of numbers with the reason).

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
