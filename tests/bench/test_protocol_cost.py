"""The baseline of `bench evaluate` is what it says: passes over single crops that together give the protocol's answer."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from inceptionctl.bench.protocol_cost import bench_evaluate, passes, pictures_by_kind
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.evaluation import Work, answers
from inceptionctl.evaluate.inputs import folder_of
from inceptionctl.evaluate.subject import Subject
from inceptionctl.protocols import make_protocol
from tests.data.conftest import photo
from tests.defaults import preparation

SIZES = ((90, 60), (60, 60), (40, 75), (64, 64), (55, 55))


def subject() -> Subject:
    """Answers that depend on every pixel: a random projection."""
    weights = torch.randn(3 * 32 * 32, 5, generator=torch.Generator().manual_seed(0)) / 20

    def logits(images: Tensor) -> Tensor:
        return images.reshape(len(images), -1) @ weights

    classes = tuple("abcde")
    return Subject(logits, classes, preparation(32), torch.device("cpu"), "fp32", "raw", 0, Path(), "none", "", in_threads=True)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for i, size in enumerate(SIZES):
        Image.fromarray(photo(i, *size)).save(tmp_path / f"{i}.jpg")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "batch_size"), [("10crop", 2), ("12crop", 2), ("144crop", 5)])
def test_single_passes_together_are_the_protocol(files: list[Path], name: str, batch_size: int) -> None:
    protocol = make_protocol(name, 32)  # type: ignore[arg-type]
    work = Work(subject(), folder_of(files), protocol, batch_size, LoaderSettings(num_threads=2, seconds_to_read=60.0))
    alone = list(passes(work))
    assert len(alone) == int(name.removesuffix("crop")) and all(one.shape == (5, 5) for one in alone)
    assert max(float((one - alone[0]).abs().max()) for one in alone) > 0.05  # they see different crops
    together = torch.cat(list(answers(work, work.batches)))
    assert float((torch.stack(alone).mean(0) - together).abs().max()) < 1e-5


def test_pictures_are_told_apart(files: list[Path]) -> None:
    kinds, left_out = pictures_by_kind(folder_of(files), 2)
    assert {kind: [Path(images.name(i)).name for i in range(2)] for kind, images in kinds.items()} == {
        "square": ["1.jpg", "3.jpg"],
        "other": ["0.jpg", "2.jpg"],
    }
    assert left_out == {}
    kinds, left_out = pictures_by_kind(folder_of([files[0]]), 2)
    assert list(kinds) == ["other"] and list(left_out) == ["square pictures"]


def test_figures_and_the_best_batch(files: list[Path]) -> None:
    kinds, _ = pictures_by_kind(folder_of(files), 2)
    loading = LoaderSettings(num_threads=1, seconds_to_read=60.0)
    options = {"repeats": 2, "loading": loading, "progress": lambda *_: None}
    figures, chosen, difference = bench_evaluate(subject(), kinds, ["single", "12crop"], batch_sizes=[1, 2], **options)  # type: ignore[arg-type]
    assert set(chosen) == {"single", "12crop", "12 single passes"} and set(chosen.values()) <= {1, 2}
    assert difference < 1e-5
    by_name = {(figure.name, figure.unit): figure for figure in figures}
    one, other = by_name["12 single passes, square", "s/image"], by_name["12crop, square", "s/image"]
    faster = by_name["12 single passes, square / 12crop, square", "ratio of s/image"]
    assert len(faster.values) == 2
    assert faster.values == pytest.approx([a / b for a, b in zip(one.values, other.values, strict=True)])
    assert ("single, other", "CPU s/image") in by_name
    with pytest.raises(RecipeError, match="does not fill a batch of 3"):
        bench_evaluate(subject(), kinds, ["12crop"], batch_sizes=[3], **options)  # type: ignore[arg-type]
