"""Give the Inception-v3 of nsfwjs a linear classifier for a data set, so that `weights import` and `evaluate` see a whole real network.

    python -m tests.weights.probe NSFWJS_FOLDER DATA_ROOT NUM_IMAGES OUT.safetensors

Logistic regression on the features of NUM_IMAGES training images, evenly spaced; nothing of the network itself is trained.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from inceptionctl.data.dataset import open_split
from inceptionctl.evaluate.inputs import folder_of, load_images
from inceptionctl.models import build_model
from inceptionctl.weights.counterparts import find_counterpart
from inceptionctl.weights.match import match
from tests.defaults import preparation
from tests.weights.nsfwjs import NUM_OUTPUTS, state_dict


def main(folder: Path, data: Path, count: int, out: Path) -> None:
    state = state_dict(folder)
    network = build_model("inception_v3", num_classes=NUM_OUTPUTS, aux_head=False).eval()
    names = find_counterpart("timm", "inception_v3").names()
    network.load_state_dict(match(network.state_dict(), names, state, "torch", drop_background=False).tensors)
    split = open_split(data, "train")
    places = [i * len(split) // count for i in range(count)]
    labels = torch.from_numpy(split.labels[places]).long()
    paths = [Path(split.path(i).decode()) for i in places]
    prepared = preparation(299, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with torch.inference_mode():
        batches = load_images(folder_of(paths), prepared, batch_size=16, num_threads=1)
        features = torch.cat([network.pool(network.forward_features(batch)).flatten(1) for batch in batches]).clone()
    mean, std = features.mean(0), features.std(0) + 1e-3
    weight = torch.zeros(len(split.classes), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(split.classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = functional.linear((features - mean) / std, weight, bias)
        loss = functional.cross_entropy(logits, labels) + 1e-2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        state["fc.weight"] = (weight / std).contiguous()
        state["fc.bias"] = bias - weight @ (mean / std)
    save_file(state, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
