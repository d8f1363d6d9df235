import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inceptionctl.errors import EnvironmentFault
from inceptionctl.train import cpu_rmsprop, optim
from inceptionctl.train.optim import TensorFlowRMSProp

LAYOUTS = {
    "contiguous": lambda size: torch.randn(size, 5, 3, 3),
    "channels_last": lambda size: torch.randn(size, 5, 3, 3).to(memory_format=torch.channels_last),
    "1x1": lambda size: torch.randn(size, 5, 1, 1).to(memory_format=torch.channels_last),
    "flat": lambda size: torch.randn(45 * size),
    "a part of a flat one": lambda size: torch.randn(50 * size)[3 : 3 + 45 * size],
    "scalar": lambda size: torch.randn(()),
}
STEPS = 4
OPTIONS = {"decay": 0.9, "epsilon": 1e-3}


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(shapes: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Weights, and gradients of each step, that lie as `shapes` do; by numpy, since torch's draws differ between processors."""
    drawn = np.random.default_rng(1)

    def like(one: Tensor) -> Tensor:
        return torch.empty_like(one).copy_(torch.as_tensor(drawn.standard_normal(one.shape)))

    return [like(one) for one in shapes], [[3 * like(one) for one in shapes] for _ in range(STEPS)]


def stepped(shapes: list[Tensor], **options: float) -> list[Tensor]:
    """Weights and states after some steps."""
    begun, gradients = start(shapes)
    weights = [nn.Parameter(one) for one in begun]
    optimizer = TensorFlowRMSProp(weights, 0.045, **OPTIONS, **options)
    for of_step in gradients:
        for weight, gradient in zip(weights, of_step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    return [tensor for weight in weights for tensor in (weight.detach(), *optimizer.state[weight].values())]


def in_numpy(shapes: list[Tensor], *, momentum: float, weight_decay: float, centered: bool) -> list[np.ndarray]:
    """The same in float32, each product, quotient and sum rounded by itself."""
    decay, rest, mu, l2, lr, epsilon = (np.float32(x) for x in (0.9, 1 - 0.9, momentum, weight_decay, 0.045, 1e-3))
    begun, gradients = start(shapes)
    made: list[np.ndarray] = []
    for i, tensor in enumerate(begun):
        w = tensor.numpy().copy()
        ms, mom, mg = np.ones_like(w), np.zeros_like(w), np.zeros_like(w)
        for of_step in gradients:
            g = of_step[i].numpy() + l2 * w
            ms = decay * ms + rest * g * g
            root = ms + epsilon
            if centered:
                mg = decay * mg + rest * g
                root = root - mg * mg
            step = lr * g / np.sqrt(root)
            mom = mu * mom + step if momentum else step
            w = w - mom
        made += [w, ms, *([mom] if momentum else []), *([mg] if centered else [])]
    return made


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_bits_of_numpys_float32(
    layout: str, momentum: float, centered: bool, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "_update_foreach", None)  # nothing may go there
    options = {"momentum": momentum, "centered": centered, "weight_decay": weight_decay}
    shapes = [LAYOUTS[layout](size) for size in (1, 2, 7, 31)]
    for own, expected in zip(stepped(shapes, **options), in_numpy(shapes, **options), strict=True):
        assert np.array_equal(own.numpy(), expected)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32_768, 32_769, 3 * 65_536 + 13])
def test_every_size_has_them_on_any_number_of_threads(count: int) -> None:
    shapes = [torch.empty(3), torch.empty(count), torch.empty(0), torch.empty(40)]
    options = {"momentum": 0.9, "centered": True, "weight_decay": 0.01}
    expected = in_numpy(shapes, **options)
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(stepped(shapes, **options), expected, strict=True))


def bits() -> str:
    made = stepped([torch.empty(1000), torch.empty(37)], momentum=0.9, centered=True, weight_decay=0.01)
    return b"".join(one.numpy().tobytes() for one in made).hex()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "features"), [("x86-64", ""), ("haswell", "+avx2,+fma")])
def test_other_processors_make_the_same_bits(name: str, features: str) -> None:
    if name == "haswell" and " avx2 " not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2")
    code = "import tests.train.test_cpu_rmsprop as t; print(t.bits())"
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert made.stdout.strip() == bits()


def test_tensors_that_do_not_lie_alike_are_not_taken() -> None:
    one = torch.zeros(4, 5, 3, 3)
    last = one.to(memory_format=torch.channels_last)
    assert cpu_rmsprop.lie_alike([one, one.clone()]) and cpu_rmsprop.lie_alike([last, last.clone()])
    assert not cpu_rmsprop.lie_alike([one, last])
    assert not cpu_rmsprop.lie_alike([one.transpose(0, 1), one.transpose(0, 1)])
    assert not cpu_rmsprop.lie_alike([one[:, ::2], one[:, ::2]])
    assert not cpu_rmsprop.lie_alike([one, one.double()])
    assert not cpu_rmsprop.lie_alike([one, one.view(5, 4, 3, 3)])


@pytest.mark.parametrize("kind", ["transposed", "every second", "float64", "mixed states"])
def test_what_does_not_lie_alike_is_updated_all_the_same(kind: str) -> None:
    options = {"momentum": 0.9, "centered": True, "weight_decay": 0.01}
    shape = torch.empty(6, 5, 3, 3)
    (begun,), gradients = start([shape])
    weight = {
        "transposed": lambda: begun.transpose(0, 1).contiguous().transpose(0, 1),
        "every second": lambda: torch.stack([begun, begun], dim=-1)[..., 0],
        "float64": begun.double,
        "mixed states": begun.clone,
    }[kind]()
    weight = nn.Parameter(weight)
    beside = nn.Parameter(torch.randn(10))  # the others of a group go in one pass
    optimizer = TensorFlowRMSProp([beside, weight], 0.045, **OPTIONS, **options)
    for (gradient,) in gradients:
        beside.grad, weight.grad = torch.randn(10), gradient.to(weight.dtype).clone()
        optimizer.step()
        if kind == "mixed states":
            state = optimizer.state[weight]
            state["mean_square"] = state["mean_square"].to(memory_format=torch.channels_last)
    expected = in_numpy([shape], **options)
    for own, other in zip((weight.detach(), *optimizer.state[weight].values()), expected, strict=True):
        assert np.abs(own.numpy() - other).max() < 2e-5 * max(1, np.abs(other).max())
    assert not torch.equal(beside.detach(), torch.zeros(10)) and optimizer.state[beside]


def test_a_gradient_in_another_memory_format_is_taken_as_it_means() -> None:
    torch.manual_seed(0)
    begun, gradient = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(begun.clone(memory_format=memory_format))
        weight.grad = gradient  # contiguous
        TensorFlowRMSProp([weight], 0.1, momentum=0.9).step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def test_an_infinite_gradient_shows() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([float("inf"), float("nan"), 1.0])
    TensorFlowRMSProp([weight], 0.1, momentum=0.9).step()
    assert weight.isnan().tolist() == [True, True, False]


def test_kernels_are_compiled_beside_and_not_for_what_is_elsewhere() -> None:
    cpu_rmsprop._compiled.cache_clear()
    optim.compile_beside(TensorFlowRMSProp([nn.Parameter(torch.ones(2, device="meta"))], 0.1))
    optim.compile_beside(torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1))
    assert not [thread for thread in threading.enumerate() if thread.name == "compiling"]
    optim.compile_beside(TensorFlowRMSProp([nn.Parameter(torch.ones(2))], 0.1))
    for thread in threading.enumerate():
        if thread.name == "compiling":
            thread.join()
    assert cpu_rmsprop._compiled.cache_info().currsize == 1


def test_a_broken_numba_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    cpu_rmsprop._compiled.cache_clear()
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = TensorFlowRMSProp([weight], 0.1)
    optim.compile_beside(optimizer)  # says nothing
    with pytest.raises(EnvironmentFault, match="numba, which updates weights on a CPU, cannot be used"):
        optimizer.step()


def test_images_and_weights_may_ask_numba_at_once() -> None:
    """In a process that has not imported it yet."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from inceptionctl.data import cpu_transforms\n"
        "from inceptionctl.train import cpu_rmsprop\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    asked = [pool.submit(cpu_rmsprop.compiled, False, False), pool.submit(cpu_transforms.compiled)]\n"
        "    asked += [pool.submit(cpu_rmsprop.compiled, False, False), pool.submit(cpu_rmsprop.compiled, False, True)]\n"
        "assert len({one.result() for one in asked}) == 3\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
