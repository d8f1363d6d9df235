"""JPEGs of every kind, and what the training's loader makes of them: the work of a child process, since a GPU's decoder may end it.

python -m tests.data.decoding ROOT FILE cpu|mixed roi|whole|evaluation

FILE (.npz) has an array for each name in CHANGES, or `evaluation`. The child uses a GPU where there is one.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inceptionctl.data.dataset import open_split
from inceptionctl.data.transforms import TrainTransforms
from inceptionctl.smoke_tests import _under_load
from tests.data.conftest import photo
from tests.data.test_eval_loader import loader as eval_loader
from tests.data.test_odd_images import cmyk_jpeg, encoded, oriented
from tests.data.test_train_loader import EVERYTHING, NOTHING, loader

ROOT = Path(__file__).parents[2]
CHANGES = {
    # The crop as it is drawn, and by each filter; then all at once, several of a batch by another filter each.
    "plain": replace(NOTHING, crop_area=(0.08, 1.0), crop_aspect=(0.75, 4 / 3)),
    "flipped": replace(NOTHING, crop_area=(0.08, 1.0), crop_aspect=(0.75, 4 / 3), horizontal_flip=0.5, vertical_flip=0.5),
    "bicubic": replace(NOTHING, crop_area=(0.08, 1.0), crop_aspect=(0.75, 4 / 3), resize_filters=["bicubic"]),
    "changed": EVERYTHING,
}


def jpegs() -> dict[str, bytes]:
    """Name -> file: chroma as it is stored, gray, four colours, progressive, every EXIF orientation, odd and tiny sizes."""
    picture = Image.fromarray(photo(2, 211, 163))
    files = {f"chroma{i}.jpg": encoded(picture, "JPEG", quality=92, subsampling=i) for i in range(3)}
    files |= {f"exif{i}.jpg": encoded(picture, "JPEG", quality=92, exif=oriented(i)) for i in range(1, 9)}
    files |= {
        f"size{w}x{h}.jpg": encoded(Image.fromarray(photo(w, w, h)), "JPEG")
        for w, h in ((97, 131), (33, 31), (17, 90), (640, 480))
    }
    return files | {
        "gray.jpg": encoded(picture.convert("L"), "JPEG", quality=92),
        "gray2x2.jpg": encoded(picture.convert("L"), "JPEG", quality=92, subsampling=2),
        "cmyk.jpg": cmyk_jpeg(transform=0),
        "ycck.jpg": cmyk_jpeg(transform=2),
        "progressive.jpg": encoded(picture, "JPEG", quality=92, progressive=True),
        "progressive444.jpg": encoded(picture, "JPEG", quality=92, progressive=True, subsampling=0, exif=oriented(6)),
        "restarts.jpg": encoded(picture, "JPEG", quality=92, restart_marker_rows=2),
    }


def made(root: Path, decode: str, roi: bool, changes: TrainTransforms, device_id: int | None = None) -> NDArray[np.float32]:
    """Two epochs of batches of eight: [places, 3, 40, 40]. A GPU has other work between them, as in a training."""
    dataset = open_split(root, "train")
    num_steps = -(-2 * len(dataset) // 8)
    options = {"decode": decode, "decode_roi": roi, "device_id": device_id}
    batches = loader(dataset, augmentation=changes, global_batch_size=8, micro_batch_size=8, num_steps=num_steps, **options)
    return _under_load(batches, None if device_id is None else torch.ones(4096, 4096, device="cuda")).numpy()


def evaluated(root: Path, decode: str, device_id: int | None = None) -> NDArray[np.float32]:
    """Every image once, as an evaluation prepares it: [images, 3, 40, 40]."""
    batches = eval_loader(open_split(root, "train"), batch_size=8, decode=decode, device_id=device_id)
    return torch.cat([batch.images.cpu() for batch in batches]).numpy()


def made_by_a_child(root: Path, file: Path, decode: str, way: str) -> dict[str, NDArray[np.float32]]:
    """The same by each of CHANGES, or `evaluated`, in a process of its own; its end by a signal is an assertion that fails."""
    command = [sys.executable, "-m", "tests.data.decoding", str(root), str(file), decode, way]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, f"exit code {child.returncode}: {child.stderr[-2000:]}"
    with np.load(file) as arrays:
        return dict(arrays)


if __name__ == "__main__":
    _, place, target, decoder, way = sys.argv
    gpu = 0 if torch.cuda.is_available() else None
    root = Path(place)
    if way == "evaluation":
        np.savez(target, evaluation=evaluated(root, decoder, gpu))
    else:
        np.savez(target, **{name: made(root, decoder, way == "roi", changes, gpu) for name, changes in CHANGES.items()})
