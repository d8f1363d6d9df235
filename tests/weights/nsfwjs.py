"""The Inception-v3 of nsfwjs, real weights of a real network, in timm's naming; `nsfwjs.js` unpacks it first.

Its convolutions are Keras' InceptionV3 (no gamma, epsilon 0.001, padding not counted in the average pools: TF-slim's network) for
images in [0, 1]. Its head has three dense layers: the first, of 256 outputs, takes the place of our classifier.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inceptionctl.weights.timm_names import inception_v3

NUM_OUTPUTS = 256
CLASSES = ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")


def variables(folder: Path) -> dict[str, np.ndarray]:
    """Keras' variables by name, in float32 again: they were quantised to 8 bits, each with a scale and a minimum of its own."""
    content, offset = (folder / "weights.bin").read_bytes(), 0
    found = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        for entry in group["weights"]:
            size = int(np.prod(entry["shape"]))
            levels = np.frombuffer(content, np.uint8, size, offset).astype(np.float32)
            kept = entry["quantization"]
            found[entry["name"]] = (levels * np.float32(kept["scale"]) + np.float32(kept["min"])).reshape(entry["shape"])
            offset += size
    assert offset == len(content)
    return found


def state_dict(folder: Path) -> dict[str, Tensor]:
    """In timm's naming, with the first dense layer as the classifier. Keras numbers the convolutions in the order of building."""
    theirs = variables(folder)
    convolutions = [
        name for ours, name in inception_v3().items() if ours.endswith(".conv") and not ours.startswith("aux_head.")
    ]
    state = {}
    for number, name in enumerate(convolutions, start=1):
        norm = f"batch_normalization_{number}"
        bn = name.removesuffix(".conv") + ".bn"
        state[f"{name}.weight"] = theirs.pop(f"conv2d_{number}/kernel").transpose(3, 2, 0, 1)
        state[f"{bn}.bias"] = theirs.pop(f"{norm}/beta")
        state[f"{bn}.weight"] = np.ones_like(state[f"{bn}.bias"])
        state[f"{bn}.running_mean"] = theirs.pop(f"{norm}/moving_mean")
        state[f"{bn}.running_var"] = theirs.pop(f"{norm}/moving_variance")
    state["fc.weight"], state["fc.bias"] = theirs.pop("dense_1/kernel").T, theirs.pop("dense_1/bias")
    assert sorted(theirs) == ["dense_2/bias", "dense_2/kernel", "dense_3/bias", "dense_3/kernel"]
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}


def probabilities(folder: Path, logits: Tensor) -> Tensor:
    """What the rest of the original's head makes of our 256 logits: (N, 256) -> (N, 5)."""
    theirs = {name: torch.from_numpy(value) for name, value in variables(folder).items() if name.startswith("dense_")}
    x = logits.relu() @ theirs["dense_2/kernel"] + theirs["dense_2/bias"]
    return (x.relu() @ theirs["dense_3/kernel"] + theirs["dense_3/bias"]).softmax(1)
