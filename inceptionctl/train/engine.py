"""Everything of DeepSpeed that the training uses. The only module that imports it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import Store

from inceptionctl.errors import EnvironmentFault, InceptionctlError
from inceptionctl.gpu_faults import gpu_fault
from inceptionctl.launch.world import World
from inceptionctl.train.averaging import GradientAverage
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.clipping import Clipping, norms_of
from inceptionctl.train.heartbeat import Heartbeat
from inceptionctl.train.loss import Output
from inceptionctl.train.meeting import choose_interface, meet
from inceptionctl.train.optimizer_state import OptimizerState, PartitionedState, WholeState

T = TypeVar("T")


# Numbers of a gradient that ZeRO averages at once; a buffer for so many is allocated in each step (DeepSpeed's default takes 2 GB).
REDUCE_BUCKET = 1 << 22


def deepspeed_config(batch: BatchPlan, zero_stage: int = 0) -> dict[str, Any]:
    """DeepSpeed's configuration, derived from the recipe; there is no second file to edit."""
    return {
        "train_batch_size": batch.global_batch_size,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.accumulation,
        # Engine clips, for both stages alike.
        "gradient_clipping": 0.0,
        "zero_optimization": {
            "stage": zero_stage,
            **({"reduce_bucket_size": REDUCE_BUCKET, "compute_grad_norm": False} if zero_stage else {}),
        },
        "zero_allow_untested_optimizer": True,
        # It would wait for the device twice a micro batch, for figures that nobody sees.
        "timers": {"throughput": {"enabled": False}},
    }


def connect(
    world: World, device: torch.device, timeout_seconds: float = 600.0, met: Callable[[Store], None] = lambda _: None
) -> None:
    """Join the process group: NCCL between GPUs, gloo between CPU ranks. `met` gets the ranks' store when all of them are there.

    A collective call then waits for `timeout_seconds` at most. Raises EnvironmentFault when the port is taken or the other ranks do not
    come within that time.
    """
    os.environ.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.size),
        # DeepSpeed takes the device number from here, and a rank that sees one GPU alone has number 0.
        LOCAL_RANK=str(world.local_rank if device.index is None else device.index),
        MASTER_ADDR=world.master_address,
        MASTER_PORT=str(world.master_port),
    )
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed = _import_deepspeed()
    if device.type == "cpu":
        # A shared-memory operator for inference would be compiled here for half a minute at the first start; training uses none.
        # (`deepspeed.comm.torch` as an attribute is torch itself: the package imports it under that name.)
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    timeout, on_gpu = timedelta(seconds=timeout_seconds), device.type == "cuda"
    # NCCL's watchdog aborts the process without a word about the ranks: it comes after our own (train/heartbeat.py).
    patience = timeout + timedelta(seconds=30) if on_gpu else timeout
    # DeepSpeed averages gradients in a group of its own, which would wait for torch's half hour.
    sys.modules["deepspeed.comm.torch"].TorchBackend.new_group = lambda _, ranks: dist.new_group(ranks, timeout=patience)
    if not on_gpu:
        choose_interface(world)
    try:
        if world.size > 1:
            # Held until the process group has the same server: else that would end, and with it whoever has come to the group already.
            store = meet(world, timeout, device.type)
            met(store)
        deepspeed.init_distributed("nccl" if on_gpu else "gloo", timeout=patience, verbose=False)
    except (dist.DistError, RuntimeError) as error:
        # DeepSpeed binds the process group to the rank's GPU, so that NCCL connects the ranks here.
        raise gpu_fault(error, _named(world)) or _connection_fault(world, error) from None


def _import_deepspeed() -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed are not the user's
        import deepspeed
        import deepspeed.comm.torch
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # DeepSpeed's forward switches autocast off where its own configuration does not ask for it (on GPUs, silently: it would train
    # in fp32). Autocast here is the loop's.
    sys.modules["deepspeed.runtime.engine"].autocast_if_enabled = lambda *_: contextlib.nullcontext()  # type: ignore[attr-defined]
    return deepspeed


def _connection_fault(world: World, error: Exception) -> EnvironmentFault:
    text = str(error)
    place = f"{world.master_address}:{world.master_port}"
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return EnvironmentFault(f"{place} is in use by another program", "set MASTER_PORT to a free port on the first node")
    if "connectFullMesh" in text:
        return EnvironmentFault(
            f"rank {world.rank} of {world.size} has found the others at {place}, but they do not reach each other: {text[:200]}",
            "name the network between the hosts with GLOO_SOCKET_IFNAME, the same or its own on each (`ip -br address` lists them)",
        )
    return EnvironmentFault(
        f"rank {world.rank} of {world.size} cannot join the others at {place}: {text.splitlines()[0][:200]}",
        "check MASTER_ADDR and MASTER_PORT, and that every rank was started",
    )


def disconnect() -> None:
    """Leave the process group, after a success: after an error the others may sit in a collective call, and this would wait."""
    if dist.is_initialized():
        dist.destroy_process_group()


class LostRankError(EnvironmentFault):
    """Another rank has ended; its own message says why."""


class RelayedError(InceptionctlError):
    """Another rank met an error and says it; this one ends silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another rank reported an error")
        self.exit_code = exit_code


def on_rank_zero(world: World, device: torch.device, work: Callable[[], T]) -> T:
    """Do something on rank 0 alone and give its JSON-like result to every rank; its error ends all of them."""
    answer: dict[str, Any] = {}
    failure: InceptionctlError | None = None
    if world.rank == 0:
        try:
            answer = {"result": work()}
        except InceptionctlError as error:
            answer, failure = {"exit_code": error.exit_code}, error
    answer = _share(world, device, answer)
    if failure is not None:
        raise failure
    if "exit_code" in answer:
        raise RelayedError(answer["exit_code"])
    result: T = answer["result"]
    return result


def meet_all(world: World, device: torch.device) -> None:
    """Wait until every rank has come here."""
    if world.size > 1:
        count = torch.ones(1, device=device)
        dist.all_reduce(count)
        count.item()  # on a GPU the call alone waits for nobody


def _share(world: World, device: torch.device, value: dict[str, Any]) -> dict[str, Any]:
    if world.size == 1:
        return value
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([data.numel()], device=device)
    dist.broadcast(length, 0)
    if world.rank != 0:
        data = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    shared: dict[str, Any] = json.loads(bytes(data.tolist()))
    return shared


# What gloo and NCCL say of a rank that has gone; NCCL's other errors are of this machine.
LOST = (
    "Connection closed by peer",
    "closed by remote peer",
    "Connection reset",
    "Connection refused",
    "Broken pipe",
    "Timed out",
    "gloo",
    "ncclRemoteError",
    "NCCL communicator was aborted",
)


@contextlib.contextmanager
def collective_errors(world: World, heartbeat: Heartbeat) -> Iterator[None]:
    """Word the error that a lost rank, or one that hangs, causes in the others, and the faults of this rank's GPU."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in LOST):
            # The first one that gives up closes its connections, which ends the calls of those who waited with it.
            if "Timed out" in text or heartbeat.has_waited_too_long():
                raise heartbeat.fault() from None
            raise LostRankError(
                f"rank {world.rank} lost another rank: {text.splitlines()[0][:160]}",
                "the message of the rank that failed first stands above; the same command goes on from the last checkpoint",
            ) from None
        fault = gpu_fault(error, _named(world))
        if fault:
            raise fault from None
        raise


def _named(world: World) -> str:
    return f"rank {world.rank} ({socket.gethostname()})"


class Engine:
    """A network, its optimizer and DeepSpeed around both.

    forward, backward and step are called once a micro batch; gradients are averaged over the ranks (train/averaging.py, under ZeRO
    DeepSpeed) and weights updated at the last micro batch of a step. `grad_norm` is the global norm before clipping of the last step, a
    tensor on the device. `state` gives and takes the optimizer's tensors: a collective call
    under ZeRO stage 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: dict[str, Any],
        *,
        clipping: Clipping,
        channels_last: bool,
    ) -> None:
        deepspeed = _import_deepspeed()
        self.clipping = clipping
        self.grad_norm: Tensor | None = None
        self.optimizer = optimizer
        self._partitioned = config["zero_optimization"]["stage"] > 0
        if self._partitioned:
            warnings.filterwarnings("ignore", message=r".*all_gather_into_tensor. is deprecated", category=FutureWarning)
        self.state: OptimizerState = (PartitionedState if self._partitioned else WholeState)(model, optimizer)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
        self.model: nn.Module = self._engine.module
        if channels_last and not self._partitioned:
            # After DeepSpeed has started: its broadcast of the weights cannot view channels_last tensors as bytes. Under ZeRO weights
            # are views of flat tensors, contiguous; activations are channels_last all the same, as the images are.
            self.model.to(memory_format=torch.channels_last)
        self._average: GradientAverage | None = None
        self._weights = [*self.model.parameters()]
        if not self._partitioned:
            self._engine.enable_backward_allreduce = False
            self._engine.zero_grad = (
                self._forget_gradients
            )  # its own walks through the network in each step: milliseconds of the host
            num_ranks = dist.get_world_size()
            self._average = GradientAverage(self._weights, num_ranks) if num_ranks > 1 else None

    def _forget_gradients(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next step; DeepSpeed gets no scheduler of its own, so that one side owns it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def forward(self, images: Tensor) -> Output:
        """Logits, N x classes, of images N x 3 x px x px; with those of an auxiliary head where the network has one."""
        output: Output = self._engine(images)
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro batch's mean loss; at the last of a step they are the mean over the ranks."""
        average = self._average if self._engine.is_gradient_accumulation_boundary() else None
        if average:
            average.begin()
        self._engine.backward(loss)
        if average:
            average.finish()

    def step(self) -> None:
        """End a micro batch; the last one of a step updates the weights."""
        if self._engine.is_gradient_accumulation_boundary():
            self.grad_norm = self._clip_partition() if self._partitioned else self.clipping.clip_all(self._weights)
        self._engine.step()

    # DeepSpeed's own clipping forgets the norm without ZeRO; with it, it waits for the device in every step, and passes over steps
    # whose gradient is not finite without a word. These keep the norm, wait for nothing, and let such a gradient show.

    def _clip_partition(self) -> Tensor:
        assert isinstance(self.state, PartitionedState)
        parts = self.state.of_weights(self._engine.optimizer.averaged_gradients)
        here = {weight: part for weight, part in parts.items() if part is not None}
        norms = dict(zip(here, norms_of(list(here.values())).square().unbind(), strict=True)) if here else {}
        squares = torch.stack([norms.get(weight, weight.new_zeros(())) for weight in parts])
        dist.all_reduce(squares)
        return self.clipping.clip([*parts.values()], squares.sqrt(), [*parts])


def versions() -> dict[str, str]:
    """Versions of what decides a result, for environment.json."""
    names = ("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130", "numpy", "safetensors")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
