"""A recipe on several numbers of GPUs: rates, hours, refusals, and the words about them."""

import math

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.recipe import load_recipe
from inceptionctl.scaling.cluster_plan import ImageCounts, Point, Site, advise, plan_points
from inceptionctl.scaling.interconnects import NETWORKS, NODES, find_link
from inceptionctl.scaling.prediction import Compute, Traffic

IMAGENET = ImageCounts(1_281_167, 50_000, "assumed")
COMPUTE = Compute(1 / 500, 0.0, 32)
TRAFFIC = Traffic(170e6, 2e5, 2e9)


def site(**changes: object) -> Site:
    values = {"gpus_per_node": 8, "inside": NODES["nvlink4"].link, "between": NETWORKS["ib-ndr"].link}
    return Site(**(values | changes))  # type: ignore[arg-type]


def points(counts: list[int], *settings: str, where: Site | None = None, scale_batch: bool = False) -> list[Point]:
    recipe = load_recipe("inception_v4", settings)
    given = {"compute": COMPUTE, "traffic": TRAFFIC, "site": where or site(), "images": IMAGENET, "scale_batch": scale_batch}
    return plan_points(recipe, counts, **given)  # type: ignore[arg-type]


def told(found: list[Point], where: Site | None = None) -> str:
    return " ".join(advise(found, COMPUTE, where or site(), 0))


def test_time_is_steps_and_validations() -> None:
    (point,) = points([1], "train.global_batch_size=32")
    assert point.steps == math.ceil(160 * 1_281_167 / 32)
    # 160 passes at 500 images/s, and as many validations, forward only.
    assert point.seconds == pytest.approx(160 * (1_281_167 + 50_000 / 3) / 500, rel=1e-4)
    assert point.gpu_hours == pytest.approx(point.seconds / 3600)
    (short,) = points([1], "train.global_batch_size=32", "train.max_steps=1000", "evaluate.every_epochs=null")
    assert short.seconds == pytest.approx(1000 * 32 / 500 + 50_000 / 3 / 500)


def test_gpu_hours_are_of_all_gpus() -> None:
    for point in points([8, 20]):
        assert point.gpu_hours == pytest.approx(point.gpus * point.seconds / 3600)
        assert point.to_json(2.5)["cost"] == pytest.approx(2.5 * point.gpu_hours)
        assert point.to_json(None)["cost"] is None


def test_numbers_that_cannot_share_the_batch_are_told_beside_the_others() -> None:
    found = points([8, 20, 64, 256])
    assert [point.step is not None for point in found] == [True, True, True, False]
    assert "640 cannot be shared equally by 256 ranks" in (found[3].problem or "") and "160 or 320" in (found[3].problem or "")
    assert "256 GPUs: a global batch of 640" in told(found) and "--scale-batch" in told(found)
    with pytest.raises(RecipeError) as caught:
        points([256, 1024])
    assert len(caught.value.problems) == 2


def test_a_growing_batch_fits_every_number() -> None:
    found = points([8, 256, 1024], scale_batch=True)
    assert [point.batch.global_batch_size for point in found if point.batch] == [256, 8192, 32768]
    assert all(point.batch.micro_batch_size == 32 for point in found if point.batch)
    assert "a global batch above 8,192 may cost accuracy" in told(found)
    assert "may cost accuracy" not in told(points([8]))


def test_the_first_limit_is_named_with_what_to_change() -> None:
    slow = site(between=NETWORKS["ethernet-25"].link)
    assert "from 20 GPUs on, averaging gradients is the bottleneck" in told(points([8, 20], where=slow), slow)
    few_cores = site(loader_per_core=25.0)
    assert "A GPU needs 20 cores, not 8" in told(points([8, 20], where=few_cores), few_cores)
    small_disk = site(file_system=0.1e9)
    words = told(points([8, 20], where=small_disk), small_disk)
    assert (
        "the file system is the bottleneck" in words and "0.4 GB/s for 8 GPUs, 1.0 GB/s for 20 GPUs" in words
    )  # 8 x 500 images/s of 110 kB
    assert "the GPUs themselves are the bottleneck, up to 8" in told(points([8]))


def test_what_is_not_counted_and_not_measured_is_told() -> None:
    words = told(points([8, 64]))
    assert "the loader is assumed to be fast enough" in words and "the file system is assumed to be fast enough" in words
    assert "64 GPUs take 10" in words
    known = site(loader_per_core=1e6, file_system=1e15)
    assert "assumed to be fast enough" not in told(points([8], where=known), known)


def test_unknown_links_list_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        find_link("infiniband", NETWORKS, "--interconnect")
    assert all(name in str(caught.value) for name in NETWORKS)


def test_every_link_has_a_source() -> None:
    for known in (*NETWORKS.values(), *NODES.values()):
        assert known.source and known.words and known.link.bandwidth > 1e9 and 0 < known.link.latency < 1e-3
