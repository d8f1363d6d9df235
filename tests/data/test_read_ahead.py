"""Images out of shards: the same pixels at the same places as from the folder that they were made of."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inceptionctl.data import read_ahead
from inceptionctl.data.audit.check import check
from inceptionctl.data.dataset import open_split
from inceptionctl.data.loaders import EvalLoader
from inceptionctl.data.read_ahead import ReadAhead
from inceptionctl.data.shard_writer import pack
from inceptionctl.errors import DataError
from tests.data.test_eval_loader import loader as eval_loader
from tests.data.test_train_loader import loader, stream


@pytest.fixture(scope="module")
def shards(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards") / "packed"
    pack(open_split(root, "train"), open_split(root, "val"), made, 60_000)
    return made


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {}),
        (1, {"micro_batch_size": 1, "num_threads": 3}),
        (2, {"micro_batch_size": 3}),
        (3, {"start_step": 1, "micro_batch_size": 4}),
    ],
)
def test_pixels_are_those_of_the_folder(root: Path, shards: Path, ranks: int, changes: dict[str, Any]) -> None:
    expected = stream(open_split(root, "train"), **{"start_step": 0, **{k: v for k, v in changes.items() if k == "start_step"}})
    images, labels = stream(open_split(shards, "train"), ranks, **changes)
    assert torch.equal(labels, expected[1]) and torch.equal(images, expected[0])


def batches(images: EvalLoader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch.images, batch.labels) for batch in images]


def test_validation_images_are_those_of_the_folder(root: Path, shards: Path) -> None:
    one, other = (batches(eval_loader(open_split(where, "val"), batch_size=3)) for where in (root, shards))
    assert len(one) == len(other) == 3
    for (images, labels), (again, labels_again) in zip(one, other, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)


def test_bad_images_are_named_in_their_shard(root: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(open_split(root, "train"), open_split(root, "val"), packed, 60_000)
    span = open_split(packed, "train").span(2)
    with Path(os.fsdecode(span.path)).open("r+b") as file:
        file.seek(span.offset)
        file.write(b"no image any more")
    with pytest.raises(DataError, match=r"cannot decode .*train-00000\d\.tar!class_0/002\.png: the file is no image"):
        list(loader(open_split(packed, "train")))
    (bad,) = check(packed, num_threads=1).splits[0].bad
    assert span.name.endswith(f"packed/{bad.name}") and bad.kind == "no image"


def test_a_shard_cut_short_while_training_is_named(root: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(open_split(root, "train"), open_split(root, "val"), packed, 60_000)
    images = open_split(packed, "train")
    os.truncate(images.path(3), images.span(3).offset + 5)
    made = loader(images)
    with pytest.raises(DataError, match=r"(?s)cannot decode .*train-00000\d\.tar!.*: the file ends before the image does"):
        list(made)
    assert list(made) == []


def indices(count: int, asked: list[int]) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.int64]], int]]:
    for batch in range(count):
        asked.append(batch)
        yield np.array([batch, 12 - batch, 5]), batch


def test_reading_runs_ahead_by_a_few_batches_only(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, asked = open_split(shards, "train"), list[int]()
    monkeypatch.setattr(read_ahead, "NUM_THREADS", 2)
    monkeypatch.setattr(read_ahead, "BATCHES_AHEAD", 3)
    ahead = ReadAhead(images, indices(12, asked), seconds=60.0)
    index, encoded, batch = next(ahead)
    assert batch == 0 and asked == [0, 1, 2, 3]
    assert [np.asarray(one).tobytes() for one in encoded] == [images.read(int(i)) for i in index]
    assert [batch for *_, batch in ahead] == list(range(1, 12))
    ahead.close()


def test_files_stay_open_only_up_to_a_share_of_the_limit(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def descriptors() -> int:
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(bool(re.search(r"train-\d+\.tar", link)) for link in links)

    images = open_split(shards, "train")
    assert images.pieces is not None and len(images.pieces.files) > 2
    everything = iter([(np.arange(13), None)])
    monkeypatch.setattr(read_ahead.resource, "getrlimit", lambda _: (8, 8))
    monkeypatch.setattr(read_ahead, "NUM_THREADS", 1)
    ahead = ReadAhead(images, everything, seconds=60.0)
    _, encoded, _ = next(ahead)
    assert [np.asarray(one).tobytes() for one in encoded] == [images.read(i) for i in range(13)]
    assert descriptors() == 2
    ahead.close()
    assert descriptors() == 0


def test_closing_early_ends_the_threads(shards: Path) -> None:
    def readers() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name == "read-ahead"}

    before = readers()
    made = loader(open_split(shards, "train"), num_steps=1000)
    next(made)
    assert len(readers() - before) == read_ahead.NUM_THREADS
    made.close()
    assert not readers() - before
