"""The preprocessing inside of an ONNX file against the data path, pixel by pixel, on pictures of mixed sizes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.inputs import folder_of, load_images
from inceptionctl.export.preprocessing import RESIZE, preparation_graph
from tests.defaults import preparation
from tests.evaluate.making import photo

SIZES = ((120, 90), (81, 110), (75, 75), (341, 77), (64, 200), (60, 61), (323, 499))
MAX_OFF = {"bilinear": 0.005, "bicubic": 0.02}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Blotches with noise on them: every pixel counts."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate(SIZES):
        noise = rng.integers(-50, 50, (height, width, 3))
        pixels = np.clip(np.asarray(photo(i, width, height)).astype(int) + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("interpolation", sorted(RESIZE))
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("keep_aspect", "fraction"), [(False, 0.875), (False, 1.0), (True, 0.875), (True, 0.6)])
def test_values_are_the_data_paths_to_one_of_255(
    pictures: list[Path], interpolation: str, antialias: bool, keep_aspect: bool, fraction: float
) -> None:
    prepared = preparation(
        75,
        central_fraction=fraction,
        keep_aspect=keep_aspect,
        interpolation=interpolation,
        antialias=antialias,
        mean=MEAN,
        std=STD,
    )
    (expected,) = load_images(folder_of(pictures), prepared, batch_size=len(pictures), num_threads=1)
    graph = preparation_graph(prepared, 18)
    onnx.checker.check_model(graph, full_check=True)
    asked = session(graph)
    found = np.concatenate([asked.run(None, {"pixels": np.asarray(Image.open(path))[None]})[0] for path in pictures])
    one = 1.0 / 255.0 / np.array(STD)[:, None, None]
    levels = np.abs(found - expected.numpy()) / one
    assert levels.max() < 1.001
    assert (levels > 0.5).mean() < MAX_OFF[interpolation]
    assert levels[levels < 0.5].max() < 1e-4
    plain = np.abs(expected.numpy().std())
    assert plain > 0.5  # else the comparison would tell little


def test_a_batch_of_one_size(pictures: list[Path]) -> None:
    asked = session(preparation_graph(preparation(75), 18))
    pixels = np.asarray(Image.open(pictures[0]))[None]
    both = np.concatenate([pixels, pixels[:, ::-1]])
    (found,) = asked.run(None, {"pixels": both})
    assert found.shape == (2, 3, 75, 75)
    assert np.array_equal(found[:1], asked.run(None, {"pixels": pixels})[0])
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("interpolation", ["lanczos", "area", "nearest"])
def test_a_filter_that_onnx_does_not_have(interpolation: str) -> None:
    with pytest.raises(RecipeError, match=f"no resize filter like evaluate.interpolation {interpolation}"):
        preparation_graph(preparation(75, interpolation=interpolation), 18)
