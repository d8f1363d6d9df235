"""Odd but whole images through the real loaders, against Pillow: colours, depth, orientation, and content under a wrong name."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inceptionctl.data.dataset import open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, TrainLoader, in_batches
from inceptionctl.data.sampler import BatchSampler
from tests.data.conftest import Pixels, photo
from tests.defaults import preparation, transforms

# Of four components without Adobe's marker: nothing in it says whether they are stored inverted (docs/data.md).
UNDECIDED = "rgba.u1.jpg"
LEVEL = 2.0 / 255.0  # of the loaders' range [-1, 1]


def by_pillow(file: Path, *, upright: bool = True) -> Pixels:
    """uint8 [height, width, 3]. Pillow clips 16-bit gray instead of scaling it, so that is done here."""
    with Image.open(file) as image:
        turned = ImageOps.exif_transpose(image) if upright else image
        if turned.mode == "I;16":
            gray = np.round(np.asarray(turned) / 257.0).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=-1)
        return np.asarray(turned.convert("RGBA" if turned.mode == "PA" else "RGB"))[..., :3]


def lay_out(root: Path, files: list[Path], *, upright: bool = True) -> tuple[Path, Path]:
    """Two data sets with the same names: the files as they are, and Pillow's reading of them without loss."""
    odd, plain = root / "odd", root / "plain"
    for folder in (odd / "train/a", odd / "val/a", plain / "train/a", plain / "val/a"):
        folder.mkdir(parents=True)
    for file in files:
        for split in ("train", "val"):
            shutil.copy(file, odd / split / "a" / file.name)
            Image.fromarray(by_pillow(file, upright=upright)).save(plain / split / "a" / file.name, format="BMP")
    return odd, plain


SETTINGS = LoaderSettings(num_threads=2, seconds_to_read=60.0)


def evaluated(root: Path, **changes: Any) -> NDArray[np.float32]:
    dataset = open_split(root, "val")
    prepared = preparation(64, central_fraction=1.0, **changes)
    loader = EvalLoader(dataset, in_batches(range(len(dataset)), 8), prepared, SETTINGS)
    return torch.cat([batch.images for batch in loader]).numpy()


def trained(root: Path, **changes: Any) -> NDArray[np.float32]:
    """One epoch of random crops without colour changes; the order and the crops depend on names' order and sizes alone."""
    dataset = open_split(root, "train")
    batches = BatchSampler(seed=3, global_batch_size=1, micro_batch_size=1, num_steps=len(dataset))
    plain = transforms(input_px=64, brightness=0.0, saturation=0.0, **changes)
    return torch.cat([batch.images for batch in TrainLoader(dataset, batches, plain, SETTINGS)]).numpy()


def differences(files: list[Path], root: Path, *, upright: bool = True) -> dict[str, float]:
    """The largest difference from Pillow of each file, in levels of 255, in evaluation or training."""
    odd, plain = lay_out(root, files, upright=upright)
    names = [open_split(odd, "val").names[i].decode() for i in range(len(files))]
    by_evaluation = np.abs(evaluated(odd, exif_orientation=upright) - evaluated(plain)).max(axis=(1, 2, 3)) / LEVEL
    by_training = np.abs(trained(odd, exif_orientation=upright) - trained(plain)).max() / LEVEL
    worst = dict(zip(names, by_evaluation.tolist(), strict=True))
    return worst | {"training": float(by_training)}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_the_collection_of_odd_images(odd_ok: Path, tmp_path: Path) -> None:
    files = sorted(odd_ok.iterdir())
    sure = [file for file in files if file.name != UNDECIDED]
    worst = differences(sure, tmp_path / "sure")
    assert len(worst) == len(sure) + 1 == 39
    assert {name: levels for name, levels in worst.items() if levels > 1.01} == {}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def cmyk_jpeg(*, transform: int | None) -> bytes:
    """Four components with Adobe's marker (0: CMYK, 2: YCCK), or without the marker."""
    data = bytearray(encoded(Image.fromarray(photo(1, 70, 50)).convert("CMYK"), "JPEG", quality=95))
    marker = data.find(b"\xff\xee")
    end = marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big")
    if transform is None:
        del data[marker:end]
    else:
        data[end - 1] = transform
    return bytes(data)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def made() -> dict[str, bytes]:
    """Odd images of every kind that Pillow writes and DALI reads, most of them under a JPEG's name."""
    picture = Image.fromarray(photo(2, 90, 60))
    alpha = picture.copy()
    alpha.putalpha(Image.fromarray(photo(3, 90, 60)[..., 0]))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    images = {f"exif{i}.jpg": encoded(picture, "JPEG", quality=95, exif=oriented(i)) for i in range(1, 9)}
    images |= {
        "exif6.png": encoded(picture, "PNG", exif=oriented(6)),
        "exif8.webp": encoded(picture, "WEBP", lossless=True, exif=oriented(8)),
        "exif6_progressive.jpg": encoded(picture, "JPEG", progressive=True, exif=oriented(6)),
        "webp_inside.jpg": encoded(picture, "WEBP", quality=90),
        "png_inside.JPEG": encoded(picture, "PNG"),
        "tiff_inside.jpg": encoded(picture, "TIFF"),
        "mpo.jpg": encoded(picture, "MPO", save_all=True, append_images=[picture.rotate(180)]),
        "animated.webp": encoded(picture, "WEBP", lossless=True, save_all=True, append_images=[picture.rotate(180)]),
        "animated.png": encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(180)]),
        "cmyk.jpg": cmyk_jpeg(transform=0),
        "ycck.jpg": cmyk_jpeg(transform=2),
        "gray16.png": encoded(deep, "PNG"),
        "gray16.tif": encoded(deep, "TIFF"),
        "bilevel.png": encoded(picture.convert("1"), "PNG"),
        "palette.png": encoded(picture.quantize(32), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "alpha.webp": encoded(alpha, "WEBP", lossless=True, exact=True),
        "tab\tand\nline.jpg": encoded(picture, "JPEG"),
    }
    return images


@pytest.mark.parametrize("upright", [True, False])
def test_images_of_every_odd_kind(tmp_path: Path, upright: bool) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    for name, data in made().items():
        (folder / name).write_bytes(data)
    worst = differences(sorted(folder.iterdir()), tmp_path, upright=upright)
    assert {name: levels for name, levels in worst.items() if levels > 1.01} == {}


def test_without_adobes_marker_cmyk_is_read_as_it_stands(tmp_path: Path) -> None:
    """As TensorFlow does; Pillow takes every CMYK for Adobe's inverted one. `data check` names such a file for that."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a/0_without.jpg").write_bytes(cmyk_jpeg(transform=None))
        with Image.open(tmp_path / split / "a/0_without.jpg") as image:
            other_way = Image.fromarray(255 - np.asarray(image), mode="CMYK").convert("RGB")
        other_way.save(tmp_path / split / "a/1_inverted.png")
    one, other = evaluated(tmp_path)
    assert np.abs(one - other).max() <= 1.01 * LEVEL


def test_orientation_can_be_left_alone(tmp_path: Path) -> None:
    """What the key does: a turned photograph as it should be seen, or as it is stored."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a/0.jpg").write_bytes(made()["exif6.jpg"])
        (tmp_path / split / "a/1.jpg").write_bytes(made()["exif1.jpg"])
    upright, stored = evaluated(tmp_path), evaluated(tmp_path, exif_orientation=False)
    assert np.array_equal(stored[0], stored[1]) and not np.array_equal(upright[0], upright[1])
    assert np.array_equal(upright[1], stored[1])
