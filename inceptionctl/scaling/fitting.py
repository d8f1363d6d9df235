"""Latency and bandwidth from measured all-reduces."""

from __future__ import annotations

from collections.abc import Mapping

from inceptionctl.scaling.collectives import Link


def fit_ring(ranks: int, seconds: Mapping[int, float]) -> Link:
    """The link of a ring of `ranks` on which all-reduces of so many bytes take so many seconds.

    Least squares of the relative errors, since times span orders of magnitude; a latency below zero is taken as none. Raises ValueError
    for less than two sizes, one rank, or times that do not grow with the size.
    """
    if ranks < 2 or len(seconds) < 2:
        raise ValueError("a fit takes two ranks and two sizes")
    # Minimise the sum of ((a + b s - t) / t)^2: with u = 1 / t and v = s / t, of (a u + b v - 1)^2.
    pairs = [(1 / taken, size / taken) for size, taken in seconds.items()]
    uu, vv = sum(u * u for u, _ in pairs), sum(v * v for _, v in pairs)
    uv, u1, v1 = sum(u * v for u, v in pairs), sum(u for u, _ in pairs), sum(v for _, v in pairs)
    determinant = uu * vv - uv * uv
    fixed = (u1 * vv - v1 * uv) / determinant
    per_byte = (v1 * uu - u1 * uv) / determinant
    if fixed < 0:
        fixed, per_byte = 0.0, v1 / vv
    if per_byte <= 0:
        raise ValueError("the times do not grow with the size")
    hops = 2 * (ranks - 1)
    return Link(bandwidth=hops / ranks / per_byte, latency=fixed / hops)
