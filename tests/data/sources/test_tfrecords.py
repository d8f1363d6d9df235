"""TFRecords as tf-slim writes them, made by TensorFlow where it is installed, else by the few lines below."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.sources.tfrecords import masked_crc
from inceptionctl.errors import DataError

Row = tuple[bytes, int, str, str]  # image, label, synset, file name
ROWS: list[Row] = [(os.urandom(50 + 3000 * i), 1 + i % 3, f"n0000000{i % 3}", f"n_{i}.JPEG") for i in range(7)]


def field(number: int, content: bytes | int) -> bytes:
    """A field of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    small = value & 0x7F
    return bytes([small | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([small])


def example(row: Row, *, packed: bool = True) -> bytes:
    """A tf.train.Example, its features in no order; labels packed or not."""
    image, label, synset, name = row
    number = field(1, varint(label)) if packed else field(1, label)
    features = {
        "image/width": field(3, field(1, varint(500))),
        "image/class/label": field(3, number),
        "image/object/bbox/xmin": field(2, field(1, struct.pack("<2f", 0.5, 0.25))),
        "image/encoded": field(1, field(1, image)),
        "image/filename": field(1, field(1, name.encode())),
        "image/class/synset": field(1, field(1, synset.encode())),
    }
    return field(1, b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in features.items() if value))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write(file: Path, examples: Sequence[bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(map(record, examples)))
    return file


def check_rows(root: Path, rows: Sequence[Row]) -> None:
    images = open_split(root, "train")
    assert images.classes == ("n00000000", "n00000001", "n00000002")
    assert images.labels.tolist() == [row[1] - 1 for row in rows]
    assert [images.read(i) for i in reversed(range(len(rows)))] == [row[0] for row in reversed(rows)]
    assert images.name(5).endswith(f"-of-00002!{rows[5][3]}")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["", "train/"])
def test_records_are_found_and_read_at_random(tmp_path: Path, packed: bool, folder: str) -> None:
    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        write(tmp_path / f"{folder}train-{number:05d}-of-00002", [example(row, packed=packed) for row in rows])
    check_rows(tmp_path, ROWS)


def test_records_of_tensorflow_itself(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: scripts/environment does it")
    train = tensorflow.train

    def text(value: str | bytes) -> object:
        return train.Feature(bytes_list=train.BytesList(value=[value.encode() if isinstance(value, str) else value]))

    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        with tensorflow.io.TFRecordWriter(str(tmp_path / f"train-{number:05d}-of-00002")) as writer:
            for image, label, synset, name in rows:
                features = {
                    "image/encoded": text(image),
                    "image/class/label": train.Feature(int64_list=train.Int64List(value=[label])),
                    "image/class/synset": text(synset),
                    "image/filename": text(name),
                    "image/object/bbox/xmin": train.Feature(float_list=train.FloatList(value=[0.5, 0.1])),
                    "image/object/bbox/label": train.Feature(int64_list=train.Int64List(value=[])),
                }
                writer.write(train.Example(features=train.Features(feature=features)).SerializeToString())
    check_rows(tmp_path, ROWS)
    # And the writer of these tests makes the same frame.
    data = example(ROWS[0])
    with tensorflow.io.TFRecordWriter(str(tmp_path / "one")) as writer:
        writer.write(data)
    assert (tmp_path / "one").read_bytes() == record(data)


def test_validation_is_called_validation(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001", [example(row) for row in ROWS])
    write(tmp_path / "validation-00000-of-00001", [example(row) for row in ROWS[:3]])
    train, val = open_data(tmp_path, 3)
    assert (len(train), len(val)) == (7, 3)


def test_numbers_alone_count_from_what_is_there(tmp_path: Path) -> None:
    nameless = [example((image, label, "", "")) for image, label, *_ in ROWS]
    write(tmp_path / "train-00000-of-00001", nameless)
    images = open_split(tmp_path, "train")
    assert images.classes == ("1", "2", "3") and images.labels.tolist()[:3] == [0, 1, 2]
    assert images.name(2).endswith("!record 2")
    write(tmp_path / "validation-00000-of-00001", [example((image, label - 1, "", "")) for image, label, *_ in ROWS])
    with pytest.raises(DataError, match=r"only in .*: 3; only in .*: 0"):
        open_data(tmp_path, 3)


def test_a_list_that_contradicts_the_records_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001", [example(row) for row in ROWS])
    names = tmp_path / "names.txt"
    names.write_text("n00000000\nn00000001\nn00000002\n")
    assert open_split(tmp_path, "train", class_names=names).labels.tolist()[:3] == [0, 1, 2]
    names.write_text("n00000001\nn00000000\nn00000002\n")
    for order in ("sorted", "listed"):
        with pytest.raises(DataError, match=r"not in sorted order|label 1 is 'n00000000' there, and 'n00000001' in"):
            open_split(tmp_path, "train", class_names=names, class_order=order)  # type: ignore[arg-type]


def test_records_whose_labels_are_not_sorted_are_noticed(tmp_path: Path) -> None:
    swapped = [(image, 4 - label, synset, name) for image, label, synset, name in ROWS]
    write(tmp_path / "train-00000-of-00001", [example(row) for row in swapped])
    with pytest.raises(DataError, match="not in sorted order: 'n00000001', number 2, comes after 'n00000002'") as raised:
        open_split(tmp_path, "train")
    assert "data.class_order=listed" in (raised.value.hint or "")
    assert open_split(tmp_path, "train", class_order="listed").classes == ("n00000002", "n00000001", "n00000000")


def test_missing_files_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train-00001-of-00003", [example(ROWS[0])])
    with pytest.raises(DataError, match="lacks 2 of the 3 TFRecord files of train, the first is number 0"):
        open_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-20], "is cut short: record 6"),
        (lambda data: b"\x01" + data[1:], "is no TFRecord file, or damaged at byte 0"),
        (lambda data: b"plain text, which this is", "is no TFRecord file"),
        (
            lambda data: data + record(field(1, field(1, field(1, b"k") + field(2, b"")))),
            "record 7 cannot be used: it has no 'image/enc",
        ),
        (lambda data: data + record(b"\xff" * 30), "record 7 cannot be used: it is no tf.train.Example"),
        (lambda data: data + record(example((b"", 1, "", ""))), "record 7 cannot be used"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    file = write(tmp_path / "train-00000-of-00001", [example(row) for row in ROWS])
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "train")
