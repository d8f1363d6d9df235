"""Whole images decoded and then cropped, as on a GPU, beside crops decoded, as on a CPU: the same pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import open_split
from pipelines.decoding import whole_image
from tests.data.decoding import CHANGES, evaluated, jpegs, made, made_by_a_child
from tests.data.test_train_loader import loader

LEVEL = 2.0 / 255.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jpegs")
    (root / "train/a").mkdir(parents=True)
    for name, data in jpegs().items():
        (root / "train/a" / name).write_bytes(data)
    return root


@pytest.mark.parametrize("changes", CHANGES)
def test_the_crop_of_the_whole_is_the_crop_decoded(folder: Path, changes: str) -> None:
    whole, part = (made(folder, "cpu", roi, CHANGES[changes]) for roi in (False, True))
    assert len(whole) == 48 and np.array_equal(whole, part)


@pytest.mark.parametrize("upright", [True, False])
def test_odd_images_too(odd_ok: Path, tmp_path: Path, upright: bool) -> None:
    (tmp_path / "train").mkdir()
    shutil.copytree(odd_ok, tmp_path / "train/a")
    dataset = open_split(tmp_path, "train")
    options = {"augmentation": CHANGES["changed"], "num_steps": 8, "exif_orientation": upright}
    batches = (loader(dataset, decode_roi=roi, **options) for roi in (False, True))
    for whole, part in zip(*batches, strict=True):
        assert np.array_equal(whole.images, part.images) and np.array_equal(whole.labels, part.labels)


def test_what_claims_gigapixels_is_not_decoded(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path / "train")
    file = tmp_path / "train/a/chroma0.jpg"
    data = bytearray(file.read_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (60000).to_bytes(2, "big") * 2
    file.write_bytes(data)
    list(loader(open_split(tmp_path, "train"), decode_roi=False, bad=(bad := BadImages(1))))
    assert dict(bad.take_fresh()) == {str(file): "the header claims more than 200 megapixels"}


def test_what_is_asked_of_a_gpus_decoder_changes_nothing_on_a_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    files = [np.frombuffer(data, dtype=np.uint8) for data in jpegs().values()]
    pipe = Pipeline(batch_size=len(files), num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipe:
        file = fn.external_source(name="file", dtype=types.UINT8)
        asked = whole_image(file, device="cpu", exif_orientation=True, expected_px=1600)
        pipe.set_outputs(asked, fn.decoders.image(file, device="cpu", output_type=types.RGB))
    asked, plain = pipe.run(file=files)
    assert all(np.array_equal(asked.at(i), plain.at(i)) for i in range(len(files)))
    assert capfd.readouterr() == ("", "")


def test_a_child_makes_them_too(folder: Path, tmp_path: Path) -> None:
    child = made_by_a_child(folder, tmp_path / "pixels.npz", "cpu", "whole")
    assert child.keys() == CHANGES.keys()
    apart(child["plain"], made(folder, "cpu", True, CHANGES["plain"]))
    with pytest.raises(AssertionError, match="exit code 1"):
        made_by_a_child(tmp_path / "nothing", tmp_path / "pixels.npz", "cpu", "whole")


# A GPU. nvJPEG's inverse cosine transform and its conversion to RGB round otherwise than libjpeg-turbo's, by a level or two of 255, and
# colours multiply that; chroma that is repeated instead of interpolated is further away in the mean.
MEAN, MOST = 1.0, 16


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    levels = np.abs(one - other) / LEVEL
    assert levels.mean(axis=(1, 2, 3)).max() <= MEAN and levels.max() <= MOST


@pytest.mark.gpu
@pytest.mark.parametrize(("decode", "way"), [("cpu", "roi"), ("mixed", "whole"), ("mixed", "roi")])
def test_a_gpu_makes_the_pixels_of_a_cpu(folder: Path, tmp_path: Path, decode: str, way: str) -> None:
    # One process for all of CHANGES: CUDA and DALI take seconds to start in each.
    for name, there in made_by_a_child(folder, tmp_path / "pixels.npz", decode, way).items():
        apart(there, made(folder, "cpu", True, CHANGES[name]))


@pytest.mark.gpu
@pytest.mark.parametrize("decode", ["cpu", "mixed"])
def test_an_evaluation_on_a_gpu_sees_the_pixels_of_a_cpu(folder: Path, tmp_path: Path, decode: str) -> None:
    there = made_by_a_child(folder, tmp_path / "pixels.npz", decode, "evaluation")
    apart(there["evaluation"], evaluated(folder, "cpu"))
