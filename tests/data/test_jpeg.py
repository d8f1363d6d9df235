"""JPEGs that a GPU's decoder takes otherwise than a CPU's, and what is done about them before either sees them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.base_loader import BaseLoader
from inceptionctl.data.dataset import open_split
from inceptionctl.data.graphs import PipelineSettings, evaluation, training
from inceptionctl.data.loader_settings import Decode, LoaderSettings
from inceptionctl.data.read_ahead import may_be_cut, mend_gray
from inceptionctl.data.transforms import NUM_CANDIDATES
from tests.data.conftest import photo
from tests.data.test_odd_images import encoded, oriented

GRAY = Image.fromarray(photo(2, 90, 61)).convert("L")


def as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).copy()


def laid_out(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def mended(data: bytes) -> bytes:
    array = as_array(data)
    mend_gray(array)
    return array.tobytes()


def pixels(data: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"exif": oriented(6)}], ids=", ".join
)
def test_a_gray_jpegs_sampling_factors_become_one_and_its_pixels_stay(subsampling: int, options: dict[str, Any]) -> None:
    data = encoded(GRAY, "JPEG", quality=90, subsampling=subsampling, **options)
    changed = [k for k, (one, other) in enumerate(zip(data, mended(data), strict=True)) if one != other]
    assert len(changed) == 1 and data[changed[0]] in (0x21, 0x22) and mended(data)[changed[0]] == 0x11
    assert np.array_equal(pixels(data), pixels(mended(data)))


def test_whatever_else_is_left_as_it_is() -> None:
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "\xff\xc0"
    colour = Image.fromarray(photo(2, 90, 61))
    files = [encoded(colour, "JPEG", subsampling=k, exif=thumbnail) for k in range(3)]
    files += [encoded(GRAY, "JPEG"), encoded(GRAY, "PNG"), b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0\xff\xff", b"hello" * 9]
    odd = encoded(GRAY, "JPEG", subsampling=2)
    # A header that is cut off anywhere is nobody's to mend; filling bytes before a marker are lawful.
    header = odd.index(b"\xff\xc0")
    files += [odd[:length] for length in range(header + 11)]
    assert [data for data in files if mended(data) != data] == []
    assert mended(odd[:header] + b"\xff\xff" + odd[header:]) != odd[:header] + b"\xff\xff" + odd[header:]


def test_the_loader_hands_on_what_is_mended(tmp_path: Path) -> None:
    root = laid_out(tmp_path, {f"val/a/{k}.jpg": encoded(GRAY, "JPEG", subsampling=k) for k in (0, 2)})
    given: list[bytes] = []

    def graph(source: Any, pipeline: PipelineSettings) -> Any:
        def watched() -> Any:
            batch = source()
            given.extend(image.tobytes() for image in batch[0])
            return batch

        return evaluated(watched, pipeline)

    list(Lists(root, graph, "val"))
    assert [data.index(b"\x01\x11\x00", data.index(b"\xff\xc0")) > 0 for data in given] == [True, True]


def test_what_is_cut_short_is_told_by_its_end() -> None:
    data = encoded(GRAY, "JPEG")
    assert not may_be_cut(as_array(data))
    assert all(may_be_cut(as_array(data[:length])) for length in range(4, len(data)))
    assert may_be_cut(as_array(data + b"\0"))  # it may: the decoder is asked
    assert not any(may_be_cut(as_array(other)) for other in (encoded(GRAY, "PNG"), b"", b"hello"))


def evaluated(source: Any, pipeline: PipelineSettings) -> Any:
    return evaluation(
        source,
        pipeline,
        input_px=40,
        central_fraction=1.0,
        keep_aspect=False,
        interpolation="bilinear",
        antialias=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


class Lists(BaseLoader[Any]):
    """What any graph gives of a whole split as one batch."""

    def __init__(self, root: Path, graph: Any, split: str, *, decode: Decode = "cpu", bad: BadImages | None = None) -> None:
        dataset = open_split(root, split)
        settings = LoaderSettings(num_threads=1, seconds_to_read=60.0, decode=decode)
        inputs = iter([(np.arange(len(dataset)), ())])
        super().__init__(dataset, inputs, graph, settings, batch_size=len(dataset), exif_orientation=True, bad=bad)

    def __next__(self) -> Any:
        return self.outputs()


def test_an_image_that_only_the_cpus_decoder_refuses_is_bad_beside_a_gpus(tmp_path: Path) -> None:
    """A GPU's decoder fills in what is missing: here a graph that decodes nothing stands in its place."""
    data = encoded(Image.fromarray(photo(2, 90, 61)), "JPEG")
    names = {"whole": data, "cut": data[: len(data) // 2], "followed": data + b"\0" * 9}
    root = laid_out(tmp_path, {f"train/a/{name}.jpg": content for name, content in names.items()})

    def graph(source: Any, pipeline: PipelineSettings) -> Any:
        on_cpu = pipeline.decode == "cpu"
        return evaluated(source, pipeline) if on_cpu and on_gpu else accepts_all(source, replace(pipeline, decode="cpu"))

    for on_gpu, kept in ((True, 2), (False, 3)):
        bad = BadImages(most=1)
        (batch,) = Lists(root, graph, "train", bad=bad, decode="mixed" if on_gpu else "cpu")
        assert len(batch[1]) == kept and len(bad) == 3 - kept
        assert on_gpu is (str(root / "train/a/cut.jpg") in bad)


def accepts_all(source: Any, pipeline: PipelineSettings) -> Any:
    return training(
        source,
        pipeline,
        input_px=40,
        num_candidates=NUM_CANDIDATES,
        resize_filters=("bilinear",),
        horizontal_flip=False,
        vertical_flip=False,
        colours=False,
        contrast=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        until="read",
    )
