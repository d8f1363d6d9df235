"""Images that cannot be used never end a training below the limit, and their places are filled the same way for everyone."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.loaders import EvalLoader
from inceptionctl.data.sampler import Sampler
from inceptionctl.data.shard_writer import pack
from inceptionctl.errors import DataError
from tests.data.conftest import fill, photo
from tests.data.test_eval_loader import loader as eval_loader
from tests.data.test_train_loader import loader, stream

PER_CLASS, EVERY = 12, 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 good images in two classes; JPEGs and PNGs."""
    root = tmp_path_factory.mktemp("whole")
    for i, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        fill(root / name, PER_CLASS, seed=100 * i)
    return root


def files_of(root: Path, split: str = "train") -> list[Path]:
    images = open_split(root, split)  # type: ignore[arg-type]
    return [Path(images.path(i).decode()) for i in range(len(images))]


@pytest.fixture(scope="module")
def spoiled(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every fourth training image of no use at all: six of 24, some in every batch of twelve."""
    root = tmp_path_factory.mktemp("spoiled") / "data"
    shutil.copytree(whole, root)
    for n, file in enumerate(files_of(root)[::EVERY]):
        if n % 3 == 0:
            file.write_bytes(file.read_bytes()[:200])  # the header of a JPEG is gone too
        elif n % 3 == 1:
            file.write_text("no image")
        else:
            file.unlink()
            file.symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def by_hand(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with copies of the next images where the bad ones are."""
    root = tmp_path_factory.mktemp("by_hand") / "data"
    shutil.copytree(whole, root)
    files = files_of(root)
    for i in range(0, len(files), EVERY):
        shutil.copy(files[i + 1], files[i])
    return root


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {}),
        (2, {"micro_batch_size": 3}),
        (3, {"micro_batch_size": 4, "num_threads": 1, "prefetch": 1}),
        (2, {"micro_batch_size": 6, "start_step": 1}),
        (1, {"micro_batch_size": 1, "start_step": 2}),
    ],
)
def test_the_next_image_fills_the_place_for_everyone(spoiled: Path, by_hand: Path, ranks: int, changes: dict[str, int]) -> None:
    expected = stream(open_split(by_hand, "train"), start_step=changes.get("start_step", 0))
    images, labels = stream(open_split(spoiled, "train"), ranks, bad=BadImages(6), **changes)
    assert torch.equal(labels, expected[1]) and torch.equal(images, expected[0])


def test_each_is_noted_once(spoiled: Path) -> None:
    bad = BadImages(6)
    list(loader(open_split(spoiled, "train"), bad=bad, num_steps=4))  # two epochs
    names = [str(file) for file in files_of(spoiled)[::EVERY]]
    found = dict(bad.take_fresh())
    assert sorted(found) == sorted(names) and len(bad) == 6 and bad.take_fresh() == []
    assert found[names[1]] == "the file is no image (it starts with b'no image')"
    assert found[names[2]] == "the link leads nowhere"


def test_more_than_the_limit_is_an_error_that_names_some(spoiled: Path) -> None:
    with pytest.raises(DataError) as raised:
        list(loader(open_split(spoiled, "train"), bad=BadImages(2)))
    assert re.match(
        r"[3-6] images cannot be used, and data\.max_bad_images is 2:\n\S*train/\w/\d\d\d\.\w+: ", raised.value.message
    )
    assert "data check" in str(raised.value.hint) and "data.max_bad_images" in str(raised.value.hint)


def test_a_data_set_without_a_single_good_image(tmp_path: Path) -> None:
    fill(tmp_path / "train/a", 3, seed=0)
    images = open_split(tmp_path, "train")
    for i in range(3):
        Path(images.path(i).decode()).write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of .*train can be decoded"):
        list(loader(images, bad=BadImages(100)))


def half_a_jpeg(root: Path) -> ImageSet:
    """Large JPEGs of which the lower half is missing: some crops lie in what there is, others do not."""
    (root / "train/a").mkdir(parents=True)
    for i in range(12):
        file = root / f"train/a/{i:03d}.jpg"
        Image.fromarray(photo(i, 160, 320)).save(file, quality=92)
        if i % 2:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return open_split(root, "train")


def test_half_an_image_is_used_where_the_crop_lies_in_it(tmp_path: Path) -> None:
    images = half_a_jpeg(tmp_path)
    options = {"num_steps": 6, "input_px": 24}
    parts = []
    for ranks, micro in ((1, 12), (2, 2)):
        batches = [
            list(loader(images, bad=BadImages(12), rank=r, world_size=ranks, micro_batch_size=micro, **options))
            for r in range(ranks)
        ]
        steps = len(batches[0]) // 6
        ordered = [batch for step in range(6) for part in batches for batch in part[step * steps : (step + 1) * steps]]
        parts.append(torch.cat([batch.images for batch in ordered]))
    assert torch.equal(*parts)
    # 36 of the 72 places belong to halves; were each of them bad, its neighbour would stand there.
    for i in range(1, 12, 2):
        shutil.copy(tmp_path / f"train/a/{(i + 1) % 12:03d}.jpg", tmp_path / f"train/a/{i:03d}.jpg")
    filled = torch.cat([batch.images for batch in loader(images, **options)])
    as_filled = torch.tensor([torch.equal(one, other) for one, other in zip(parts[0], filled, strict=True)])
    odd = torch.from_numpy(Sampler(5, 12).at(0, 72)[1] % 2 == 1)
    assert as_filled[~odd].all()
    assert 0 < int(as_filled[odd].sum()) < 36


def test_a_file_that_vanishes_or_does_not_answer_while_training(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    images, files = open_split(root, "train"), files_of(root)
    batches = loader(images, bad=(bad := BadImages(2)), num_steps=14, seconds_to_read=0.3)
    next(batches)
    later = Sampler(5, 24).at(13 * 12, 12)[1]  # reading ahead has not come to the last batch
    gone, silent = files[int(later[0])], files[int(later[1])]
    gone.unlink()
    silent.unlink()
    os.mkfifo(silent)  # opening it to read waits for a writer, and there is none
    assert len(list(batches)) == 13
    assert dict(bad.take_fresh()) == {str(gone): "the file does not exist", str(silent): "nothing came for 0.3 seconds"}


def test_an_image_that_has_stalled_is_not_waited_for_again(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    images = open_split(root, "train")
    silent = files_of(root)[5]
    silent.unlink()
    os.mkfifo(silent)
    made = loader(images, bad=BadImages(1), num_steps=20, seconds_to_read=0.2)
    assert len(list(made)) == 20
    assert list(made._ahead._source.stalled) == [5]


def test_a_shard_cut_short_fills_like_any_other(whole: Path, by_hand: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(open_split(whole, "train"), open_split(whole, "val"), packed, 10**9)
    images = open_split(packed, "train")
    os.truncate(images.path(0), images.span(22).offset + 5)
    copied = tmp_path / "copied"
    shutil.copytree(whole, copied)
    files = files_of(copied)
    for i in (22, 23):
        shutil.copy(files[0], files[i])
    expected, _ = stream(open_split(copied, "train"))
    for ranks in (1, 2):
        found, labels = stream(images, ranks, bad=BadImages(2), micro_batch_size=6)
        assert torch.equal(found, expected)
    order = Sampler(5, 24).at(0, 36)[1]
    assert labels.tolist() == [0 if i in (22, 23) else int(i >= 12) for i in order]


def test_a_header_that_claims_gigapixels_is_refused_before_memory_is_taken(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    file = files_of(root)[0]
    assert file.suffix == ".jpg"
    data = bytearray(file.read_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (60000).to_bytes(2, "big") * 2
    file.write_bytes(data)
    bad = BadImages(1)
    assert len(list(loader(open_split(root, "train"), bad=bad))) == 3
    assert dict(bad.take_fresh()) == {str(file): "the header claims more than 200 megapixels"}


def test_validation_leaves_them_out(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    files = files_of(root, "val")
    for i in (0, 1, 2, 7, 23):
        files[i].write_bytes(b"")
    images = open_split(root, "val")
    expected = {i: batch.images for i, batch in enumerate(eval_loader(open_split(whole, "val"), batch_size=1))}
    good = [i for i in range(24) if i not in (0, 1, 2, 7, 23)]
    for ranks, size in ((1, 3), (2, 5)):
        bad = BadImages(5)
        made = [eval_loader(images, batch_size=size, rank=rank, world_size=ranks, bad=bad) for rank in range(ranks)]
        batches = [batch for part in made for batch in part]
        assert torch.cat([batch.labels for batch in batches]).tolist() == [int(i >= 12) for i in good]
        assert torch.equal(torch.cat([batch.images for batch in batches]), torch.cat([expected[i] for i in good]))
        assert len(bad) == 5


def test_an_evaluation_bears_none(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    files_of(root, "val")[3].write_bytes(b"")
    made: EvalLoader = eval_loader(open_split(root, "val"), batch_size=4)
    with pytest.raises(DataError, match=r"cannot decode \S*val/a/003\.jpg: the file is empty"):
        list(made)
    assert list(made) == []


def test_a_batch_of_one_image_is_a_function_of_the_place(whole: Path) -> None:
    # What the trial relies on: alone or among others, the same pixels.
    images = open_split(whole, "train")
    assert np.array_equal(stream(images, micro_batch_size=1)[0].numpy(), stream(images)[0].numpy())
