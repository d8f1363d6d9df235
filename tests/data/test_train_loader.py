"""Batches for training: the same pixels whoever makes them, each augmentation really applied, and bad files named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inceptionctl.augmentations import Augmentation
from inceptionctl.augmentations.auto_augment import AutoAugment
from inceptionctl.augmentations.gaussian_blur import GaussianBlur
from inceptionctl.augmentations.grayscale import Grayscale
from inceptionctl.augmentations.random_erasing import RandomErasing
from inceptionctl.augmentations.rotation import Rotation
from inceptionctl.data import bad_images
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import Batch, TrainLoader
from inceptionctl.data.mix import Mix
from inceptionctl.data.sampler import BatchSampler, Sampler
from inceptionctl.data.transforms import TrainTransforms
from inceptionctl.errors import DataError, EnvironmentFault
from tests.data.conftest import fill, photo
from tests.defaults import transforms

FILTERS = ("bilinear", "nearest", "bicubic", "area")
EVERYTHING = transforms(resize_filters=FILTERS, vertical_flip=0.5, contrast=0.3, hue_degrees=30.0, color_order="random")
NOTHING = transforms(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), horizontal_flip=0.0, brightness=0.0, saturation=0.0)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MakeRoot = Callable[[dict[str, NDArray[np.uint8]]], Path]


def loader(
    dataset: ImageSet, *, augmentation: TrainTransforms = EVERYTHING, bad: BadImages | None = None, **changes: Any
) -> TrainLoader:
    """Of twelve places a step; `changes` are fields of the sampler, the transforms or the settings."""

    def taken(kind: type, **values: Any) -> dict[str, Any]:
        return values | {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}

    places = taken(BatchSampler, seed=5, global_batch_size=12, micro_batch_size=12, num_steps=3)
    settings = taken(LoaderSettings, num_threads=2, seconds_to_read=60.0)
    made = replace(augmentation, **taken(TrainTransforms))
    assert not changes
    return TrainLoader(dataset, BatchSampler(**places), made, LoaderSettings(**settings), bad=bad)


def stream(dataset: ImageSet, ranks: int = 1, **changes: Any) -> tuple[Tensor, Tensor]:
    """(images, labels) of all ranks in the order of places: step by step, rank after rank in each."""
    parts = [list(loader(dataset, rank=rank, world_size=ranks, **changes)) for rank in range(ranks)]
    steps = changes.get("num_steps", 3) - changes.get("start_step", 0)
    of_step = len(parts[0]) // steps
    batches = [batch for step in range(steps) for part in parts for batch in part[step * of_step : (step + 1) * of_step]]
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


@pytest.fixture(scope="module")
def train(root: Path) -> ImageSet:
    return open_split(root, "train")


@pytest.fixture(scope="module")
def reference(train: ImageSet) -> tuple[Tensor, Tensor]:
    """36 places, so nearly three epochs of 13 images."""
    return stream(train)


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {"num_threads": 1, "prefetch": 1}),
        (1, {"micro_batch_size": 1, "num_threads": 3}),
        (1, {"micro_batch_size": 4, "start_step": 2}),
        (2, {"micro_batch_size": 6}),
        (2, {"micro_batch_size": 3, "start_step": 1, "num_threads": 1}),
        (3, {"micro_batch_size": 2}),
        (4, {"micro_batch_size": 3, "start_step": 1, "prefetch": 3}),
        (12, {"micro_batch_size": 1, "num_threads": 1}),
    ],
)
def test_pixels_of_a_place_are_the_same_whoever_makes_them(
    train: ImageSet, reference: tuple[Tensor, Tensor], ranks: int, changes: dict[str, int]
) -> None:
    images, labels = stream(train, ranks, **changes)
    start = changes.get("start_step", 0) * 12
    assert torch.equal(labels, reference[1][start:])
    assert torch.equal(images, reference[0][start:])


@pytest.mark.parametrize("ranks", [1, 2])
def test_skipped_batches_are_left_out_and_the_rest_stays_as_it_was(train: ImageSet, ranks: int) -> None:
    images, labels = (values.split(12) for values in stream(train, ranks, micro_batch_size=6, num_steps=6))
    left, of_left = (values.split(12) for values in stream(train, ranks, micro_batch_size=6, skipped=[(1, 3)]))
    assert len(left) == 3
    for taken, step in enumerate((0, 4, 5)):
        assert torch.equal(left[taken], images[step]) and torch.equal(of_left[taken], labels[step])


def test_labels_and_images_belong_together(train: ImageSet, reference: tuple[Tensor, Tensor]) -> None:
    index = Sampler(5, len(train)).at(0, 36)[1]
    assert reference[1].tolist() == train.labels[index].tolist()
    whole, _ = stream(train, augmentation=NOTHING)
    for place in (0, 7, 20):
        with Image.open(train.path(int(index[place])).decode()) as image:
            expected = np.array(image.convert("RGB")).mean(axis=(0, 1)) / 127.5 - 1
        assert np.abs(whole[place].mean(dim=(1, 2)).numpy() - expected).max() < 0.03


def test_a_batch_has_the_promised_form(train: ImageSet) -> None:
    batch = next(loader(train))
    assert batch.images.shape == (12, 3, 40, 40)
    assert batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.shape == (12,)


def test_values_stay_in_range_and_colour_is_clamped(make_root: MakeRoot) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    dataset = open_split(make_root({"train/a/0.png": ramp, "train/b/0.png": ramp}), "train")
    bright = replace(NOTHING, brightness=0.9, contrast=0.9)
    images, _ = stream(dataset, augmentation=bright)
    assert images.min() == -1.0 and images.max() == 1.0
    for other, (low, high) in enumerate(zip((-2.117904, -2.035714, -1.804444), (2.248908, 2.428571, 2.64), strict=True)):
        channel = stream(dataset, augmentation=bright, **IMAGENET)[0][:, other]
        assert (channel.min(), channel.max()) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))
    plain, _ = stream(dataset, augmentation=NOTHING)
    assert -1.0 <= plain.min() < -0.98 and 0.98 < plain.max() <= 1.0


def test_epochs_and_seeds_change_the_picture(train: ImageSet, reference: tuple[Tensor, Tensor]) -> None:
    index = Sampler(5, len(train)).at(0, 36)[1]
    first, again = np.flatnonzero(index == index[0])[:2]
    assert not torch.equal(reference[0][first], reference[0][again])
    assert not torch.equal(stream(train, seed=6)[0], reference[0])


def test_batches_stay_valid_after_the_next_ones(train: ImageSet) -> None:
    drawn = loader(train, micro_batch_size=2)
    kept: list[tuple[Batch, Tensor, Tensor]] = []
    for batch in drawn:
        kept.append((batch, batch.images.clone(), batch.labels.clone()))
    drawn.close()
    del drawn
    assert len({batch.images.data_ptr() for batch, *_ in kept}) == len(kept) == 18
    for batch, images, labels in kept:
        assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_nothing_is_read_past_the_end(train: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    span = ImageSet.span
    monkeypatch.setattr(ImageSet, "span", lambda self, i: fed.append(int(i)) or span(self, i))
    batches = loader(train, start_step=1, micro_batch_size=3, world_size=2, rank=1)
    assert len(list(batches)) == 4
    assert sorted(fed) == sorted(int(i) for step in (1, 2) for i in Sampler(5, len(train)).at(step * 12 + 6, 6)[1])
    assert list(batches) == []


def test_a_finished_run_and_a_closed_loader_give_nothing(train: ImageSet) -> None:
    assert list(loader(train, start_step=3)) == []
    closed = loader(train)
    next(closed)
    closed.close()
    closed.close()
    assert list(closed) == []


def test_a_batch_that_does_not_split_is_refused(train: ImageSet) -> None:
    with pytest.raises(ValueError, match="12 does not split into 5 ranks"):
        loader(train, world_size=5)
    with pytest.raises(ValueError, match="micro batches of 5"):
        loader(train, micro_batch_size=5)


# Bad files.


def damaged(tmp_path: Path, count: int = 1) -> ImageSet:
    fill(tmp_path / "train/a", 6, seed=0)
    fill(tmp_path / "train/b", 6, seed=50)
    for i in range(count):
        path = tmp_path / f"train/a/00{3 * i}.jpg"
        path.write_bytes(path.read_bytes()[:700])
    return open_split(tmp_path, "train")


def test_a_truncated_jpeg_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"cannot decode \S*train/a/000\.jpg: .*(end of JPEG|Unexpected end)") as raised:
        list(loader(damaged(tmp_path)))
    assert raised.value.hint == f"`inceptionctl data check {tmp_path}` lists every file that cannot be read"
    assert "pipeline" not in raised.value.message


def test_several_bad_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot decode 2 images:") as raised:
        list(loader(damaged(tmp_path, count=2)))
    assert "a/000.jpg: " in raised.value.message and "a/003.jpg: " in raised.value.message


def test_batches_before_the_bad_one_come_through(tmp_path: Path) -> None:
    dataset = damaged(tmp_path)
    place = Sampler(5, 12).at(0, 12)[1].tolist().index(0)
    batches = loader(dataset, micro_batch_size=1)
    for _ in range(place):
        next(batches)
    with pytest.raises(DataError, match=r"a/000\.jpg"):
        next(batches)
    assert list(batches) == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.unlink(), "the file does not exist"),
        (lambda path: path.write_text("hello, I am text"), r"the file is no image \(it starts with b'hello, I'\)"),
        (lambda path: (path.unlink(), path.symlink_to("gone.jpg")), "the link leads nowhere"),
        (lambda path: Image.fromarray(photo(0, 9, 9)).save(path, format="GIF"), "GIF is not decoded"),
    ],
)
def test_the_reason_is_in_words(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    fill(tmp_path / "train/a", 3, seed=0)
    dataset = open_split(tmp_path, "train")
    spoil(tmp_path / "train/a/001.jpg")
    with pytest.raises(DataError, match=f"cannot decode \\S*a/001\\.jpg: {reason}\n"):
        list(loader(dataset))


def test_a_failure_that_no_file_explains_is_not_blamed_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = damaged(tmp_path)
    monkeypatch.setattr(bad_images.Trial, "fault", lambda *_: None)
    with pytest.raises(EnvironmentFault, match=r"the image pipeline failed, though every file in it decodes alone: .*decode"):
        list(loader(dataset))


def test_an_unused_class_of_bad_files_does_not_matter(tmp_path: Path, root: Path) -> None:
    # Only the places of this run are read: the last step of this run comes before the bad file.
    shutil.copytree(root / "train", tmp_path / "train")
    dataset = open_split(tmp_path, "train")
    last = int(Sampler(5, 13).at(0, 13)[1][-1])
    Path(dataset.path(last).decode()).write_bytes(b"")
    assert len(list(loader(dataset, num_steps=1))) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("decode", ["cpu", "mixed"])
@pytest.mark.parametrize(
    "augmentations", [(), (Grayscale(probability=0.5), RandomErasing(probability=0.5))], ids=["plain", "more"]
)
def test_a_gpu_makes_nearly_the_same_pixels(make_root: MakeRoot, decode: str, augmentations: tuple[Augmentation, ...]) -> None:
    dataset = open_split(make_root({f"train/a/{i}.png": photo(i, 130, 90 + i) for i in range(6)}), "train")
    options = {"augmentations": augmentations, "resize_filters": ["nearest"] if augmentations else FILTERS}
    here, there = loader(dataset, **options), loader(dataset, device_id=0, decode=decode, decode_roi=decode == "cpu", **options)
    for one, other in zip(here, there, strict=True):
        assert other.images.is_cuda and other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.labels, other.labels.cpu())
        # Other kernels round a resized level the other way now and then, and the colours multiply that: a few of 255 levels.
        assert (one.images - other.images.cpu()).abs().max() < 6 / 127.5


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        *({"augmentations": [AutoAugment(policy=policy)]} for policy in ("rand", "trivial", "imagenet")),
        {"augmentations": [GaussianBlur(probability=1.0)]},
        {"augmentations": [Rotation(degrees=90.0)]},
        {"mix": Mix(mixup_alpha=0.2, cutmix_alpha=1.0, probability=1.0, cutmix_probability=0.5, until_epoch=None)},
    ],
    ids=["rand", "trivial", "imagenet", "blur", "rotation", "mix"],
)
def test_a_gpu_augments_as_a_cpu(make_root: MakeRoot, changes: dict[str, Any]) -> None:
    dataset = open_split(make_root({f"train/a/{i}.png": photo(i, 130, 90 + i) for i in range(6)}), "train")
    options = {"resize_filters": ["nearest"], **changes}
    for one, other in zip(loader(dataset, **options), loader(dataset, device_id=0, **options), strict=True):
        far = (one.images - other.images.cpu()).abs() > 6 / 127.5
        # The nearest pixel of a warp may be the other one where two are equally near.
        assert far.float().mean() < 0.01
        if one.mixed is not None and other.mixed is not None:
            assert torch.equal(one.mixed[0], other.mixed[0].cpu()) and torch.equal(one.mixed[1], other.mixed[1].cpu())


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
def test_sampling_by_class_is_the_same_on_any_ranks_and_from_any_step(train: ImageSet, sampling: str) -> None:
    images, labels = stream(train, sampling=sampling)
    index = Sampler(5, len(train), train.labels, sampling).at(0, 36)[1]  # type: ignore[arg-type]
    assert labels.tolist() == train.labels[index].tolist() != stream(train)[1].tolist()
    parts, of_parts = stream(train, ranks=2, sampling=sampling, micro_batch_size=3)
    assert torch.equal(parts, images) and torch.equal(of_parts, labels)
    rest, of_rest = stream(train, sampling=sampling, start_step=2)
    assert torch.equal(rest, images[24:]) and torch.equal(of_rest, labels[24:])
