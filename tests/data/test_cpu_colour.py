"""One image through the compiled pass, to the bit: against the same sums in numpy, and on processors of other kinds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inceptionctl.data import cpu_transforms
from inceptionctl.data.cpu_transforms import Changes, Recolouring
from inceptionctl.errors import EnvironmentFault

PX = 61  # more than the pixels of a vector, and not a multiple of them
LIMITS = [(-1.0, 1.0), (-0.9, 1.1), (-1.2, 0.8)]
RNG = np.random.default_rng(7)
IMAGE = RNG.integers(0, 256, (PX, PX, 3), dtype=np.uint8)
FLIPS = np.array([[False, False], [True, False], [False, True], [True, True]])
MATRIX = (RNG.normal(0, 1.5, (4, 3, 3)) / 255).astype(np.float32)
OFFSET = RNG.normal(0, 0.3, (4, 3)).astype(np.float32)
OF_MEAN = (RNG.normal(0, 1.5, (4, 3, 3)) / 255).astype(np.float32)


def recoloured(i: int, of_mean: Any, dtype: Any) -> Any:
    out = np.zeros((PX, 3 * PX), dtype=dtype)
    Recolouring(PX, LIMITS)(IMAGE.reshape(PX, -1), Changes(FLIPS, MATRIX, OFFSET, of_mean), i, out)
    return out.reshape(PX, PX, 3)


def by_hand(i: int, of_mean: Any) -> Any:
    """Every product and sum rounded to float32, in the order of the compiled pass."""
    mean = IMAGE.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    shift = (OFFSET[i].astype(np.float64) + of_mean[i].astype(np.float64) @ mean).astype(np.float32)
    r, g, b = np.moveaxis(IMAGE.astype(np.float32), 2, 0)[..., None]
    of_r, of_g, of_b = MATRIX[i].T
    low, high = np.array(LIMITS, dtype=np.float32).T
    made = np.clip(((r * of_r + b * of_b) + g * of_g) + shift, low, high)
    assert (made == low).any() and (made == high).any()
    mirrored, upside_down = FLIPS[i]
    return made[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("of_mean", [np.zeros_like(OF_MEAN), OF_MEAN], ids=["without mean", "with mean"])
def test_an_image_has_the_bits_of_its_sums_in_their_order(i: int, of_mean: Any) -> None:
    assert np.array_equal(recoloured(i, of_mean, np.float32), by_hand(i, of_mean))


@pytest.mark.parametrize("i", range(4))
def test_bfloat16_is_float32_rounded_to_nearest_ties_to_even(i: int) -> None:
    expected = torch.from_numpy(by_hand(i, OF_MEAN).copy()).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(recoloured(i, OF_MEAN, np.uint16), expected)


def test_ties_go_to_even() -> None:
    # 255 values, of which each second lies just between two of bfloat16.
    matrix = np.eye(3, dtype=np.float32)[None] * np.float32(2**-8 / 128)
    nothing = np.zeros((1, 3), dtype=np.float32)
    changes = Changes(np.zeros((1, 2), dtype=bool), matrix, nothing + 1.0, np.zeros_like(matrix))
    ramp = np.arange(16 * 16 * 3, dtype=np.int64).astype(np.uint8).reshape(16, 48)
    out, floats = np.zeros((16, 48), dtype=np.uint16), np.zeros((16, 48), dtype=np.float32)
    for made in (out, floats):
        Recolouring(16, [(0.0, 2.0)] * 3)(ramp, changes, 0, made)
    assert (floats.view(np.uint32) & 0xFFFF == 0x8000).sum() > 2
    assert np.array_equal(out, torch.from_numpy(floats).bfloat16().view(torch.uint16).numpy())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the processors are those of x86-64")
@pytest.mark.parametrize(("name", "features"), [("x86-64", ""), ("haswell", "+avx2,+fma")])
def test_other_processors_make_the_same_bits(name: str, features: str) -> None:
    if name == "haswell" and " avx2 " not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2")
    code = (
        "import sys, tests.data.test_cpu_colour as t; sys.stdout.write(t.recoloured(1, t.OF_MEAN, 'float32').tobytes().hex())"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert made.stdout == recoloured(1, OF_MEAN, np.float32).tobytes().hex()


def test_a_broken_numba_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(EnvironmentFault, match="numba, which colours images on a CPU"):
        cpu_transforms._compiled.__wrapped__()


def test_several_threads_may_ask_for_it_at_once() -> None:
    """As those of the loaders of a training and its validation do; in a process that has not imported numba yet."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from inceptionctl.data.cpu_transforms import compiled\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    asked = [pool.submit(compiled) for _ in range(4)]\n"
        "assert len({one.result() for one in asked}) == 1\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
