"""The two numbers of the model of a sum over ranks, from times that are known."""

import pytest

from inceptionctl.bench.allreduce import fit, sizes_up_to


def test_sizes() -> None:
    assert sizes_up_to(1 << 20) == [4096, 16384, 65536, 262144, 1 << 20]
    assert sizes_up_to(256 << 20)[-1] == 256 << 20


def test_the_model_is_found_again() -> None:
    sizes = sizes_up_to(256 << 20)
    alpha, rate = fit(sizes, [3e-5 + size / 2e9 for size in sizes])
    assert alpha == pytest.approx(3e-5) and rate == pytest.approx(2e9)
    # Small sizes count as much as large ones.
    alpha, rate = fit(sizes, [(3e-5 + size / 2e9) * (1.1 if k % 2 else 0.9) for k, size in enumerate(sizes)])
    assert alpha == pytest.approx(3e-5, rel=0.15) and rate == pytest.approx(2e9, rel=0.15)


def test_alpha_is_never_negative() -> None:
    alpha, rate = fit([1000, 2000], [1e-6, 4e-6])
    assert alpha == 0.0 and rate > 0


def test_where_more_bytes_take_no_longer_there_is_no_rate() -> None:
    alpha, rate = fit([1000, 2000, 4000], [2e-3, 1.5e-3, 1e-3])
    assert rate is None and 1e-3 < alpha < 2e-3
