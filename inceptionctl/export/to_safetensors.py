"""model.safetensors and config.json: weights by name, and what is needed to build the network around them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained, empty_network
from inceptionctl.export.description import Description, parse_description
from inceptionctl.export.formats import Exporter, Opened, logits_of
from inceptionctl.train.checkpoint import load_weights

CONFIG = "config.json"


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """The two files. The sha256 in both tells whether they belong together: they cannot be replaced in one step."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in trained.model.state_dict().items()}
    metadata = {"format": "pt", "checkpoint_sha256": description.checkpoint_sha256}
    return {"model.safetensors": save(tensors, metadata), CONFIG: description.to_json().encode()}


def open_export(path: Path, device: torch.device) -> Opened:
    """Build the network that config.json describes and load the weights strictly. Raises CheckpointError."""
    config = path.with_name(CONFIG)
    if not config.is_file():
        raise CheckpointError(
            f"{path} has no {CONFIG} beside it",
            "keep both files of an export together; of a checkpoint name the folder, not a file in it",
        )
    description = parse_description(config.read_text(encoding="utf-8", errors="replace"), str(config))
    kept = _metadata(path).get("checkpoint_sha256")
    if kept is not None and kept != description.checkpoint_sha256:
        raise CheckpointError(
            f"{path} and {config} are of different checkpoints", "export again: `inceptionctl export RUN --format safetensors`"
        )
    model = empty_network(description.model_arguments())
    load_weights(path, model)
    return Opened(description, logits_of(model.to(device), device))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}", "export it again: `inceptionctl export RUN --format safetensors`"
        ) from None


SAFETENSORS = Exporter("model.safetensors", write, open_export)
