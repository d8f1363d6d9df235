"""A step: what is waited for, what is hidden, what limits."""

import itertools
import math
from dataclasses import replace

import pytest

from inceptionctl.scaling.collectives import Cluster, Link, all_gather_seconds, all_reduce_seconds
from inceptionctl.scaling.prediction import GOOD, Compute, Supply, Traffic, predict, useful_batch
from inceptionctl.train.batch import BatchPlan

LINK = Link(25e9, 14e-6)
TRAFFIC = Traffic(gradients=170e6, statistics=2e5, bucket=2e9)
COMPUTE = Compute(1 / 500, 0.004, 32)


def cluster(gpus: int, link: Link = LINK) -> Cluster:
    return Cluster(gpus, 8, Link(300e9, 3e-6), link)


def test_a_step_is_its_passes_and_the_averaging_after_them() -> None:
    step = predict(BatchPlan(16, 32, 3), COMPUTE, TRAFFIC, cluster(16), Supply())
    assert step.compute == pytest.approx(3 * (0.004 + 32 / 500))
    expected = all_reduce_seconds(170e6, cluster(16)) + all_reduce_seconds(2e5, cluster(16))
    assert step.exchange == step.exposed == pytest.approx(expected)
    assert step.seconds == pytest.approx(step.compute + expected)
    assert step.rate == pytest.approx(16 * 32 * 3 / step.seconds)
    assert step.efficiency == pytest.approx(step.compute / step.seconds)


def test_one_gpu_is_fully_efficient() -> None:
    step = predict(BatchPlan(1, 32, 1), COMPUTE, TRAFFIC, cluster(1), Supply())
    assert (step.exchange, step.efficiency, step.limit) == (0.0, 1.0, "compute")
    assert step.rate == pytest.approx(32 / (0.004 + 32 / 500))


def test_hidden_communication_ends_with_the_backward_pass() -> None:
    batch = BatchPlan(64, 32, 4)
    backward = (0.004 + 32 / 500) * 2 / 3  # of one of the four passes
    fast, slow = cluster(64), cluster(64, Link(1e9, 14e-6))
    shares = [replace(TRAFFIC, hidden=hidden) for hidden in (0.0, 0.5, 1.0)]
    shown = [predict(batch, COMPUTE, traffic, fast, Supply()).exposed for traffic in shares]
    assert shown == pytest.approx([shown[0], shown[0] / 2, 0.0])
    whole = predict(batch, COMPUTE, shares[2], slow, Supply())
    assert whole.exposed == pytest.approx(whole.exchange - backward) and whole.exposed > 0


def test_buckets_pay_the_latency_again() -> None:
    where = cluster(64)
    four = Traffic(4e6, 0.0, 1e6)
    assert four.seconds(where) == pytest.approx(4 * all_reduce_seconds(1e6, where) + all_reduce_seconds(0.0, where))
    five = Traffic(4.5e6, 0.0, 1e6)
    assert five.seconds(where) - four.seconds(where) == pytest.approx(all_reduce_seconds(0.5e6, where))
    assert Traffic(4e6, 0.0, 2e9).seconds(where) < four.seconds(where)


def test_zero_gathers_the_weights_too() -> None:
    where = cluster(64)
    apart = Traffic(170e6, 2e5, 2e9, gathers=True).seconds(where) - TRAFFIC.seconds(where)
    assert apart == pytest.approx(all_gather_seconds(170e6, where))


@pytest.mark.parametrize(
    ("link", "supply", "limit"),
    [
        (LINK, Supply(), "compute"),
        (Link(1e9, 14e-6), Supply(), "averaging"),
        (LINK, Supply(loader=100.0), "data loading"),
        (LINK, Supply(file_system=1000.0), "file system"),
        (Link(1e9, 14e-6), Supply(loader=1e6, file_system=1e9), "averaging"),
    ],
)
def test_what_limits(link: Link, supply: Supply, limit: str) -> None:
    step = predict(BatchPlan(64, 64, 4), COMPUTE, TRAFFIC, cluster(64, link), supply)
    assert step.limit == limit
    if limit == "data loading":
        assert step.rate == pytest.approx(64 * 100)
    if limit == "file system":
        assert step.rate == pytest.approx(1000)


def test_efficiency_falls_with_the_gpus_and_rises_with_the_batch() -> None:
    by_gpus = [predict(BatchPlan(n, 32, 1), COMPUTE, TRAFFIC, cluster(n), Supply()).efficiency for n in (1, 8, 16, 64, 256)]
    by_batch = [predict(BatchPlan(64, 32, k), COMPUTE, TRAFFIC, cluster(64), Supply()).efficiency for k in (1, 2, 4, 8)]
    assert all(more > less for more, less in itertools.pairwise(by_gpus))
    assert all(less < more for less, more in itertools.pairwise(by_batch))


@pytest.mark.parametrize("hidden", [0.0, 0.5])
@pytest.mark.parametrize("gpus", [16, 64, 1024])
def test_at_the_useful_batch_a_twentieth_is_averaging(gpus: int, hidden: float) -> None:
    slow, traffic = cluster(gpus, Link(5e9, 40e-6)), replace(TRAFFIC, hidden=hidden)
    batch = useful_batch(COMPUTE, traffic, slow)
    assert batch % gpus == 0
    reached = predict(BatchPlan(gpus, batch // gpus, 1), COMPUTE, traffic, slow, Supply())
    before = predict(BatchPlan(gpus, batch // gpus - 1, 1), COMPUTE, traffic, slow, Supply())
    assert before.efficiency < GOOD <= reached.efficiency + 1e-9


def test_nothing_is_said_of_smaller_batches_than_were_measured() -> None:
    assert useful_batch(COMPUTE, TRAFFIC, Cluster(8, 8, Link(math.inf, 0.0), LINK)) == 8 * 32
