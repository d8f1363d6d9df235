"""What docs/gpu.md says of streams, NCCL and copies, asked of a real GPU: run with `python -m pytest -m gpu`."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from inceptionctl.distributed.local import free_port
from tests.commands import COMMAND, TINY, environment, sets

pytestmark = pytest.mark.gpu
LONG = 200_000_000  # cycles of a kernel that does nothing: a tenth of a second


def sums(root: Path, late: bool) -> list[float]:
    """Of the pixels and labels of a loader's batches, computed when the host is `late`: far ahead of the GPU."""
    from inceptionctl.data.dataset import open_split
    from inceptionctl.data.loader_settings import LoaderSettings
    from inceptionctl.data.loaders import EvalLoader, in_batches
    from tests.defaults import preparation

    images, settings = open_split(root, "val"), LoaderSettings(num_threads=2, seconds_to_read=60.0, device_id=0, decode="mixed")
    loader = EvalLoader(images, in_batches(range(len(images)), 2), preparation(64), settings)
    found = []
    for batch in loader:
        if late:
            torch.cuda._sleep(LONG)  # type: ignore[no-untyped-call]
        found.append(batch.images.double().sum() + batch.labels.sum())
        if not late:
            torch.cuda.synchronize()
        del batch
    loader.close()
    return torch.stack(found).tolist()


def test_dali_gives_no_memory_away_that_torch_still_reads(root: Path) -> None:
    """Batches are let go of while the kernels that read them wait in the stream, and the pipeline is closed before they run."""
    assert sums(root, late=True) == sums(root, late=False)


@pytest.fixture
def nccl() -> Iterator[None]:
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1, device_id=torch.device("cuda", 0))
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("compiled", ["none", "network"])
def test_gradients_averaged_beside_the_pass_are_those_of_the_pass(nccl: None, compiled: str) -> None:
    from inceptionctl.train.engine import GradientAverage
    from inceptionctl.train.torch_compile import compile_network

    def gradients(averaged: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 64, 3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ]
        model = nn.Sequential(*layers, nn.Linear(64, 10)).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = GradientAverage(model.parameters(), 1, bucket_bytes=20_000) if averaged else None
        compile_network(model, compiled)  # type: ignore[arg-type]
        images = torch.randn(16, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
        for _ in range(5):  # buckets are filled again while kernels of the step before are still queued
            model.zero_grad(set_to_none=True)
            torch.cuda._sleep(LONG // 10)  # type: ignore[no-untyped-call]
            if average:
                average.begin()
            model(images).square().mean().backward()
            if average:
                average.finish()
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= 0.01 * weight.grad
        return [weight.detach().clone() for weight in model.parameters()]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_snapshot_holds_the_step_that_it_was_taken_after() -> None:
    from inceptionctl.train.checkpoint import Progress, take_snapshot
    from inceptionctl.train.optim import WeightAverage

    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128)).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = WeightAverage(model, 0.9)
    snapshot = None
    for number in range(3):  # the memory of the snapshot before is used again
        torch.cuda._sleep(LONG)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            model[0].weight.fill_(number)
        snapshot = take_snapshot(model, average, {}, Progress(step=number), into=snapshot)
        with torch.no_grad():
            model[0].weight.fill_(-1.0)  # training goes on at once
        copy = snapshot.tensors["model.safetensors"]["0.weight"]
        assert copy.is_pinned() and copy.is_contiguous() and bool((copy == number).all())


def test_two_ranks_on_one_gpu_are_told(root: Path, tmp_path: Path) -> None:
    port, settings = str(free_port()), sets(*TINY, "model.num_classes=3", f"data.root={root}", "train.max_steps=1")
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    ranks = [
        subprocess.Popen(
            [*COMMAND, "train", "inception_v4", *settings, "--output", "run"],
            cwd=tmp_path,
            env=environment() | world | {"RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": seen},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert 4 in [rank.returncode for rank in ranks], said
    assert any("two ranks were given the same GPU" in text for text in said), said
