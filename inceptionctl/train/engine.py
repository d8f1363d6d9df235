"""DeepSpeed's engine around a network and its optimizer."""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inceptionctl.console import JsonObject
from inceptionctl.distributed.process_group import import_deepspeed
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.clipping import Clipping, norms_of
from inceptionctl.train.gradient_average import GradientAverage
from inceptionctl.train.loss import Output
from inceptionctl.train.optimizer_state import OptimizerState, PartitionedState, WholeState

# Numbers of a gradient that ZeRO averages at once; a buffer for so many is allocated in each step (DeepSpeed's default takes 2 GB).
REDUCE_BUCKET = 1 << 22


def deepspeed_config(batch: BatchPlan, zero_stage: int = 0) -> JsonObject:
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


class Engine:
    """A network, its optimizer and DeepSpeed around both.

    forward, backward and step are called once a micro batch; gradients are averaged over the ranks (train/gradient_average.py, under ZeRO
    DeepSpeed) and weights updated at the last micro batch of a step. `grad_norm` is the global norm before clipping of the last step, a
    tensor on the device. `state` gives and takes the optimizer's tensors: a collective call
    under ZeRO stage 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: JsonObject,
        *,
        clipping: Clipping,
        channels_last: bool,
    ) -> None:
        deepspeed = import_deepspeed()
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
