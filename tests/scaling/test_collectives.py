"""The alpha-beta model against its formulas, its limits, and what must hold whatever the numbers are."""

import itertools
import math

import pytest

from inceptionctl.scaling.collectives import (
    TREE_SHARE,
    Cluster,
    Link,
    all_gather_seconds,
    all_reduce_seconds,
    ring_seconds,
    tree_seconds,
)

NVLINK, CARD = Link(300e9, 3e-6), Link(25e9, 14e-6)


def flat(gpus: int, link: Link = CARD, launch: float = 0.0) -> Cluster:
    """One GPU a node: a single level."""
    return Cluster(gpus, 1, link, link, launch)


@pytest.mark.parametrize("gpus", [2, 3, 8, 64, 1000])
@pytest.mark.parametrize("num_bytes", [0.0, 1e3, 170e6])
def test_ring(gpus: int, num_bytes: float) -> None:
    expected = 2 * (gpus - 1) / gpus * num_bytes / 25e9 + 2 * (gpus - 1) * 14e-6
    assert ring_seconds(num_bytes, flat(gpus)) == pytest.approx(expected)
    assert ring_seconds(num_bytes, flat(gpus, launch=1e-3)) == pytest.approx(expected + 1e-3)


@pytest.mark.parametrize(("gpus", "levels"), [(2, 1), (4, 2), (5, 3), (8, 3), (64, 6), (1000, 10)])
def test_tree(gpus: int, levels: int) -> None:
    expected = 2 * levels * 14e-6 + 2 * 170e6 / (TREE_SHARE * 25e9)
    assert tree_seconds(170e6, flat(gpus)) == pytest.approx(expected)


def test_one_gpu_exchanges_nothing() -> None:
    alone = flat(1, launch=1e-3)
    assert ring_seconds(1e9, alone) == tree_seconds(1e9, alone) == all_gather_seconds(1e9, alone) == 0.0


def test_within_a_node_the_network_does_not_count() -> None:
    slow = Cluster(8, 8, NVLINK, Link(1.0, 1.0))
    assert ring_seconds(170e6, slow) == pytest.approx(2 * 7 / 8 * 170e6 / 300e9 + 2 * 7 * 3e-6)
    assert tree_seconds(0.0, slow) == pytest.approx(2 * 7 * 3e-6)  # a chain inside the node


def test_between_nodes_the_narrower_link_counts_and_each_hop_its_own_latency() -> None:
    cluster = Cluster(32, 8, NVLINK, CARD)
    assert cluster.nodes == 4
    # 62 hops, 6 of them from node to node.
    assert ring_seconds(170e6, cluster) == pytest.approx(2 * 31 / 32 * 170e6 / 25e9 + 56 * 3e-6 + 6 * 14e-6)
    assert tree_seconds(0.0, cluster) == pytest.approx(2 * (7 * 3e-6 + 2 * 14e-6))
    narrow_inside = Cluster(32, 8, Link(5e9, 3e-6), CARD)
    assert narrow_inside.bandwidth == 5e9


def test_the_last_node_may_be_filled_in_part() -> None:
    assert Cluster(20, 8, NVLINK, CARD).nodes == 3
    assert Cluster(4, 8, NVLINK, CARD).nodes == 1
    # Without a second GPU in any node nothing passes the link inside.
    assert Cluster(4, 1, Link(1.0, 1.0), CARD).bandwidth == 25e9


def test_ring_tends_to_its_bandwidth_and_tree_to_its_latency() -> None:
    many = flat(4096)
    assert ring_seconds(1e15, many) == pytest.approx(2 * 1e15 / 25e9, rel=1e-3)
    assert tree_seconds(0.0, many) == pytest.approx(2 * 12 * 14e-6)
    assert all_reduce_seconds(1e3, many) == tree_seconds(1e3, many) < ring_seconds(1e3, many)
    assert all_reduce_seconds(1e12, many) == ring_seconds(1e12, many) < tree_seconds(1e12, many)


def test_two_halves_of_a_ring() -> None:
    cluster = Cluster(32, 8, NVLINK, CARD, launch=1e-3)
    assert 2 * all_gather_seconds(1e8, cluster) == pytest.approx(ring_seconds(1e8, cluster) + 1e-3)


@pytest.mark.parametrize("seconds", [ring_seconds, tree_seconds, all_reduce_seconds, all_gather_seconds])
def test_more_never_takes_less(seconds: object) -> None:
    assert callable(seconds)
    counts = (1, 2, 4, 8, 9, 16, 20, 64, 65, 256, 1024)
    by_gpus = [seconds(1e8, Cluster(gpus, 8, NVLINK, CARD)) for gpus in counts]
    by_bytes = [seconds(size, Cluster(64, 8, NVLINK, CARD)) for size in (0.0, 1.0, 1e3, 1e6, 1e9)]
    by_latency = [seconds(1e6, Cluster(64, 8, NVLINK, Link(25e9, late))) for late in (0.0, 1e-6, 1e-5, 1e-3)]
    by_slowness = [seconds(1e8, Cluster(64, 8, NVLINK, Link(1e9 / slow, 1e-6))) for slow in (0.01, 0.1, 1.0, 10.0)]
    for series in (by_gpus, by_bytes, by_latency, by_slowness):
        assert all(less <= more and math.isfinite(more) for less, more in itertools.pairwise(series)), series
        assert series[0] < series[-1]
