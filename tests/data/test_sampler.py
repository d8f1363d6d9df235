"""The order of samples and the draws of each place are pure functions; their values are fixed for good."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from inceptionctl.data import sampler
from inceptionctl.data.sampler import MAX_UNIFORMS, Sampler, batch_at, permutation, uniforms


def test_permutation_values_never_change() -> None:
    # A change here, with whatever numpy, means that a resumed run sees another order than the one it began with.
    assert permutation(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert permutation(7, 3, 10).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1]
    digest = hashlib.sha256(permutation(1, 2, 10_000).astype("<i8").tobytes()).hexdigest()
    assert digest == "2b72ae5af22d8eab9e3dbe15533a52d25254f0a638066952ef5d9b52e982aa9c"


def test_uniforms_values_never_change() -> None:
    drawn = uniforms(0, 0, 2, 3)
    assert (drawn.astype(np.float64) * 2**24).astype(int).tolist() == [
        [7526000, 13481943, 8060611],
        [4833655, 15645297, 10428299],
    ]
    digest = hashlib.sha256(uniforms(5, 123_456_789_012, 1000, 46).astype("<f4").tobytes()).hexdigest()
    assert digest == "2c33ce4e06c43b81005d077d7ca1bb65dff9a18e209cfd5929b8ffe1ca0a5153"


@pytest.mark.parametrize(("place_bits", "at_once"), [(12, 10_000), (9, 77), (3, 1000), (1, 64)])
def test_an_order_does_not_depend_on_how_it_is_worked_out(
    monkeypatch: pytest.MonkeyPatch, place_bits: int, at_once: int
) -> None:
    draws = np.random.Philox(key=np.array([4, 2], dtype=np.uint64)).random_raw(3000)
    expected = np.argsort(draws, kind="stable")
    monkeypatch.setattr(sampler, "_PLACE_BITS", place_bits)
    monkeypatch.setattr(sampler, "_DRAWS_AT_ONCE", at_once)
    assert np.array_equal(permutation(4, 2, 3000), expected)


def test_equal_draws_keep_their_order() -> None:
    draws = np.array([7, 1 << 60, 7, 3, 1 << 60, 7], dtype=np.uint64)
    assert sampler._ranks(draws).tolist() == [3, 0, 2, 5, 1, 4]


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.01


def test_negative_seeds_and_large_seeds_are_their_own() -> None:
    assert permutation(-1, 0, 50).tolist() != permutation(1, 0, 50).tolist()
    assert permutation(2**63 - 1, 0, 50).tolist() != permutation(0, 0, 50).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("start_step", [0, 1, 5])
def test_the_stream_is_the_same_for_any_number_of_ranks_and_any_start(ranks: int, start_step: int) -> None:
    batch, num_samples, end_step = 12, 31, 9
    whole = Sampler(3, num_samples).at(0, batch * end_step)
    orders = [Sampler(3, num_samples) for _ in range(ranks)]
    share = batch // ranks
    parts = [orders[r].at(step * batch + r * share, share) for step in range(start_step, end_step) for r in range(ranks)]
    for column in (0, 1):
        assert np.concatenate([part[column] for part in parts]).tolist() == whole[column][start_step * batch :].tolist()


def test_every_sample_comes_once_an_epoch() -> None:
    epochs, index = Sampler(0, 31).at(0, 31 * 3)
    for epoch in range(3):
        assert sorted(index[epochs == epoch]) == list(range(31))


def test_one_range_may_span_many_epochs() -> None:
    # Fewer samples than a batch: 4 epochs in one range.
    epochs, index = Sampler(0, 3).at(2, 10)
    assert epochs.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert index[1:4].tolist() == permutation(0, 1, 3).tolist()
    assert index[7:].tolist() == permutation(0, 3, 3).tolist()


def test_going_back_gives_the_same_again() -> None:
    samples = Sampler(9, 20)
    first = samples.at(0, 20)[1].tolist()
    samples.at(20, 100)
    assert samples.at(0, 20)[1].tolist() == first


def test_uniforms_do_not_depend_on_the_range_or_the_number_asked_for() -> None:
    whole = uniforms(11, 100, 50, 46)
    assert np.array_equal(uniforms(11, 120, 7, 46), whole[20:27])
    assert np.array_equal(uniforms(11, 149, 1, 46)[0], whole[49])
    assert np.array_equal(uniforms(11, 100, 50, 5), whole[:, :5])


def test_uniforms_are_uniform_and_below_one() -> None:
    drawn = uniforms(2, 0, 20_000, MAX_UNIFORMS).astype(np.float64)
    assert drawn.min() >= 0.0 and drawn.max() < 1.0
    # Standard errors: 0.29 / sqrt(1.28 million) = 0.00026 for the mean; 1 / sqrt(20,000) = 0.007 for a correlation.
    assert abs(drawn.mean() - 0.5) < 0.0015
    assert np.abs(np.corrcoef(drawn[:, :16], rowvar=False) - np.eye(16)).max() < 0.035
    assert len(np.unique(drawn[:, 0])) > 19_900


def test_uniforms_differ_between_seeds_and_from_the_order() -> None:
    assert not np.array_equal(uniforms(0, 0, 4, 8), uniforms(1, 0, 4, 8))
    ranks_of_draws = np.argsort(uniforms(0, 0, 4, 4).ravel(), kind="stable")
    assert ranks_of_draws.tolist() != permutation(0, 0, 16).tolist()


@pytest.mark.parametrize(
    ("skipped", "taken"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        ([(2, 3)], [0, 1, 4, 5, 6, 7]),
        ([(4, 6), (2, 3)], [0, 1, 7, 8, 9, 10]),
        # Back to before an earlier rollback, since a checkpoint between was damaged: what is skipped twice counts once.
        ([(2, 3), (1, 6)], [0, 7, 8, 9, 10, 11]),
        ([(1, 4), (3, 6)], [0, 7, 8, 9, 10, 11]),
        ([(0, 0), (3, 3)], [1, 2, 4, 5, 6, 7]),
    ],
)
def test_steps_take_the_batches_that_are_not_skipped(skipped: list[tuple[int, int]], taken: list[int]) -> None:
    assert [batch_at(step, skipped) for step in range(6)] == taken


def test_too_many_uniforms_are_refused() -> None:
    with pytest.raises(ValueError, match="513 numbers a place"):
        uniforms(0, 0, 1, MAX_UNIFORMS + 1)


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Sampler(0, 0)


LABELS = np.array([0] * 20 + [1] * 8 + [3] * 3, dtype=np.int32)  # no image of class 2


def test_values_of_draws_by_class_never_change() -> None:
    assert Sampler(0, 31, LABELS, "balanced").at(31, 12)[1].tolist() == [22, 28, 23, 21, 30, 27, 25, 26, 29, 20, 28, 17]
    assert Sampler(0, 31, LABELS, "sqrt").at(31, 12)[1].tolist() == [17, 28, 16, 22, 30, 23, 21, 14, 27, 25, 26, 15]
    assert Sampler(0, 31, LABELS, "natural").at(0, 31)[1].tolist() == permutation(0, 0, 31).tolist()


@pytest.mark.parametrize(("name", "shares"), [("balanced", [1 / 3, 1 / 3, 0, 1 / 3]), ("sqrt", [0.4951, 0.3131, 0, 0.1918])])
def test_classes_come_as_often_as_they_should(name: sampler.Sampling, shares: list[float]) -> None:
    assert sampler.class_shares(LABELS, name) == pytest.approx(shares, abs=5e-4)
    drawn = LABELS[Sampler(1, 31, LABELS, name).at(0, 31 * 1000)[1]]
    assert np.bincount(drawn) / len(drawn) == pytest.approx(shares, abs=0.01)
    assert np.bincount(Sampler(1, 31, LABELS, name).at(0, 31 * 1000)[1]).min() > 100  # none is forgotten


@pytest.mark.parametrize("name", ["balanced", "sqrt"])
def test_images_of_a_class_take_turns_within_an_epoch(name: sampler.Sampling) -> None:
    for epoch in range(20):
        index = Sampler(2, 31, LABELS, name).at(31 * epoch, 31)[1]
        times = np.bincount(index, minlength=31)
        for label in (0, 1, 3):
            assert np.ptp(times[label == LABELS]) <= 1
    orders = {
        tuple(one for one in Sampler(2, 31, LABELS, name).at(31 * epoch, 31)[1] if LABELS[one] == 3) for epoch in range(9)
    }
    assert len(orders) > 4  # every epoch has another


@pytest.mark.parametrize("name", ["balanced", "sqrt"])
def test_draws_by_class_are_of_the_place_alone(name: sampler.Sampling) -> None:
    whole = Sampler(3, 31, LABELS, name).at(0, 200)[1]
    for start, count in ((0, 7), (30, 3), (61, 139), (199, 1)):
        assert Sampler(3, 31, LABELS, name).at(start, count)[1].tolist() == whole[start : start + count].tolist()
    used = Sampler(3, 31, LABELS, name)
    assert [int(used.at(place, 1)[1][0]) for place in reversed(range(200))][::-1] == whole.tolist()


def test_draws_by_class_need_labels() -> None:
    with pytest.raises(ValueError, match="sampling sqrt needs a label"):
        Sampler(0, 3, None, "sqrt")
    with pytest.raises(ValueError, match="needs a label"):
        Sampler(0, 3, LABELS, "balanced")
