"""Between two log windows no step waits for the device: steps of the real loop, watched as far as a CPU can show it, and on a GPU by torch."""

import itertools
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inceptionctl.bench.step_rate import random_batch
from inceptionctl.bench.turns import _EnoughError, make_job, run_loop
from inceptionctl.data.dataset import open_split
from inceptionctl.data.loaders import Batch, TrainLoader
from inceptionctl.data.sampler import BatchSampler
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.local import free_port
from inceptionctl.distributed.process_group import connect as join
from inceptionctl.distributed.session import Machine, Session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.distributed.world import World
from inceptionctl.recipe.load import load_recipe
from inceptionctl.train.inputs import train_transforms
from inceptionctl.train.job import Training
from tests.commands import environment
from tests.forked import run_ranks

WORLD = World(0, 1, 0, 1, "127.0.0.1", 1)
# A row falls due after every fifth step. DeepSpeed's timers begin after two.
WINDOW, STEPS, ACCUMULATION = 5, 9, 2
SMALL = (
    "model.name=resnet_18",
    "model.num_classes=3",
    "model.input_px=32",
    f"train.global_batch_size={2 * ACCUMULATION}",
    "train.micro_batch_size=2",
    f"train.log_every_steps={WINDOW}",
    "evaluate.every_epochs=null",
    "checkpoint.every_epochs=null",
)
OPTIMIZERS = ("rmsprop", "sgd", "adamw")


class Reads(TorchDispatchMode):
    """Notes from where a step reads a number out of a tensor, or moves a tensor to another device: on a GPU it would wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = (kwargs or {}).get("device")
        moved = func is torch.ops.aten._to_copy.default and device is not None and device != args[0].device
        if func is torch.ops.aten._local_scalar_dense.default or moved:
            frames = [frame.name for frame in traceback.extract_stack() if "inceptionctl" in frame.filename]
            self.found.append(frames[-1] if frames else str(func))
        return func(*args, **(kwargs or {}))


class Watched:
    """Batches of a loop that is watched, from the second step of a window until the last one, whose row reads from the device, asks for
    its last micro batch; ends the loop in its second window."""

    def __init__(self, batches: Iterator[Batch], begin: Any, end: Any) -> None:
        self._batches, self._begin, self._end = batches, begin, end

    def __iter__(self) -> Iterator[Batch]:
        for step, micro in itertools.product(range(STEPS), range(ACCUMULATION)):
            if (step % WINDOW, micro) == (1, 0):
                self._begin()
            if (step % WINDOW, micro) == (WINDOW - 1, ACCUMULATION - 1):
                self._end()
            yield next(self._batches)
        self._end()
        raise _EnoughError

    def close(self) -> None:
        """Nothing of its own."""


class Found(TypedDict):
    """What a child process prints."""

    steps: int
    reads: list[str]
    waits: int


def job_of(folder: Path, device: torch.device, *settings: str) -> Training:
    recipe = load_recipe("inception_v4", [*SMALL, *settings])
    joined = Session(WORLD, Machine(device, 1), Heartbeat(WORLD, 600.0))
    return make_job(joined, recipe, folder / "run", RankSignals(speaks=False))


def connect(device: torch.device) -> None:
    join(World(0, 1, 0, 1, "127.0.0.1", free_port()), device)


def in_a_child(call: str) -> Any:
    """What a function of this module prints, in JSON: DeepSpeed joins a process group once in a process."""
    code = f"import tests.train.test_waits as here; here.{call}"
    (done,) = run_ranks(code, 1, environment=environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def watch_a_cpu(folder: str) -> None:
    torch.set_num_threads(1)
    device, found = torch.device("cpu"), {}
    connect(device)
    accelerator = sys.modules["deepspeed.accelerator"].get_accelerator()  # type: ignore[attr-defined]
    for optimizer in OPTIMIZERS:
        job, reads, waits = job_of(Path(folder, optimizer), device, f"optim.name={optimizer}"), Reads(), itertools.count()
        accelerator.synchronize = lambda *_, waits=waits: next(waits)
        batches = itertools.repeat(random_batch(job))
        run_loop(job, Watched(batches, reads.__enter__, lambda reads=reads: reads.__exit__(None, None, None)))  # type: ignore[arg-type]
        found[optimizer] = Found(steps=job.progress.step, reads=reads.found, waits=next(waits))
    print(json.dumps(found))


@pytest.fixture(scope="module")
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    found: dict[str, Found] = in_a_child(f"watch_a_cpu({str(tmp_path_factory.mktemp('waits'))!r})")
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_reads_no_number_and_moves_no_tensor(on_a_cpu: dict[str, Found], optimizer: str) -> None:
    found = on_a_cpu[optimizer]
    assert found["steps"] == STEPS
    # On a CPU a step asks whether there is anything to clip; torch's AdamW asks its own counter, which lies on the CPU on a GPU too.
    assert set(found["reads"]) <= {"clip", *(["step"] if optimizer == "adamw" else [])}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_deepspeed_waits_for_no_device(on_a_cpu: dict[str, Found], optimizer: str) -> None:
    assert on_a_cpu[optimizer]["waits"] == 0


def watch_a_gpu(folder: str, root: str | None, setting: str) -> None:
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    connect(device)
    job = job_of(Path(folder), device, setting)
    loader = None if root is None else train_loader_of(job, Path(root))
    batches = itertools.repeat(random_batch(job)) if loader is None else loader
    set_mode = torch.cuda.set_sync_debug_mode
    run_loop(job, Watched(iter(batches), lambda: set_mode("error"), lambda: set_mode("default")))  # type: ignore[arg-type]
    if loader:
        loader.close()
    print(json.dumps(job.progress.step))


def train_loader_of(job: Training, root: Path) -> TrainLoader:
    batches = BatchSampler(
        seed=0, global_batch_size=job.batch.global_batch_size, micro_batch_size=job.batch.micro_batch_size, num_steps=STEPS
    )
    return TrainLoader(open_split(root, "train"), batches, train_transforms(job.recipe), job.loader_settings)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "setting", [*(f"optim.name={name}" for name in OPTIMIZERS), "train.precision=fp32", "train.zero_stage=1"]
)
def test_no_step_waits_for_a_gpu(tmp_path: Path, setting: str) -> None:
    """By torch's own watch, which raises at the line that waits; it does not see what libraries below torch do."""
    assert in_a_child(f"watch_a_gpu({str(tmp_path)!r}, None, {setting!r})") == STEPS


@pytest.mark.gpu
def test_no_step_on_live_images_waits_for_a_gpu(tmp_path: Path, root: Path) -> None:
    assert in_a_child(f"watch_a_gpu({str(tmp_path)!r}, {str(root)!r}, 'optim.name=rmsprop')") == STEPS
