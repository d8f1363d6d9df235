"""DeepSpeed's engine around a network and its optimizer, with the averaging of gradients over ranks and their clipping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inceptionctl.console import JsonObject
from inceptionctl.distributed.process_group import import_deepspeed
from inceptionctl.recipe.variants import Optim
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.optimizer_state import OptimizerState, PartitionedState, WholeState
from inceptionctl.train.step import Output

# Numbers of a gradient that ZeRO averages at once; a buffer for so many is allocated in each step (DeepSpeed's default takes 2 GB).
REDUCE_BUCKET = 1 << 22
BUCKET_BYTES = 25 << 20  # torch DDP's, of the gradients that are averaged without ZeRO

# A weight tensor of a smaller norm counts as one of this, else weights that start at zero would stay there.
SMALLEST_NORM = 1e-3
# A value of a one-dimensional tensor counts as at least this: batch norms and biases start at one and zero, and move in larger steps. Smaller
# numbers train more slowly, no limit lets a spike through (docs/RESULTS.md).
SMALLEST_VALUE = 5.0


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

    forward, backward and step are called once a micro batch; gradients are averaged over the ranks (`GradientAverage`; under ZeRO
    DeepSpeed) and weights updated at the last micro batch of a step. `grad_norm` is the global norm before clipping of the last step, a
    tensor on the device. `state` gives and takes the optimizer's tensors: a collective call under ZeRO stage 1.
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
            # Its own walks through the network in each step: milliseconds of the host.
            self._engine.zero_grad = self._forget_gradients
            self.trains_others()

    def trains_others(self) -> None:
        """The weights that have gradients are others than before: deal them into buckets again."""
        if self._average:
            self._average.close()
        if not self._partitioned and dist.get_world_size() > 1:
            self._average = GradientAverage(self._weights, dist.get_world_size())

    def _forget_gradients(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next step, times each group's factor; DeepSpeed gets no scheduler of its own, so one side owns it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]

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
        all_parts = self.state.of_weights(self._engine.optimizer.averaged_gradients)
        parts = {weight: part for weight, part in all_parts.items() if weight.requires_grad}
        here = {weight: part for weight, part in parts.items() if part is not None}
        norms = dict(zip(here, norms_of(list(here.values())).square().unbind(), strict=True)) if here else {}
        squares = torch.stack([norms.get(weight, weight.new_zeros(())) for weight in parts])
        dist.all_reduce(squares)
        return self.clipping.clip([*parts.values()], squares.sqrt(), [*parts])


@dataclass
class _Bucket:
    flat: Tensor
    views: dict[nn.Parameter, Tensor]
    """Of each weight's gradient, in the weight's own order of memory."""
    absent: set[nn.Parameter] = field(default_factory=set)
    """Those whose gradients are yet to come."""
    sum: dist.Work | None = None


class GradientAverage:
    """Averages the gradients of a backward pass over the ranks.

    Without ZeRO, DeepSpeed does so when the backward pass is over: it copies all gradients into one tensor (out of channels_last, which
    is slow), sums that, and copies it back, also for one rank. Here weights are dealt into buckets from the last to the first, as
    their gradients come, and a full bucket is summed while the pass goes on, as torch's DDP does; its gradients then are views of it,
    so that nothing is copied back. Buckets are summed in their order, which is the same on all ranks.
    """

    def __init__(self, weights: Iterable[nn.Parameter], num_ranks: int, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._num_ranks = num_ranks
        self._due = False
        self._next = 0
        trained = [weight for weight in weights if weight.requires_grad]
        self._buckets = [_bucket(part) for part in _parts(reversed(trained), bucket_bytes)]
        self._hooks = []
        for bucket in self._buckets:
            for weight in bucket.views:
                take = partial(self._take, bucket)
                self._hooks.append(weight.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Take no more gradients."""
        for hook in self._hooks:
            hook.remove()

    def begin(self) -> None:
        """The backward pass that comes is the last of its step: what it leaves in the gradients is to be averaged."""
        self._due, self._next = True, 0
        for bucket in self._buckets:
            bucket.absent = set(bucket.views)

    def finish(self) -> None:
        """Wait until all gradients are means over the ranks; a weight without a gradient on this rank counts as zeros."""
        self._due = False
        for bucket in self._buckets:
            for weight in bucket.absent:
                # What an earlier pass of the step has left counts too.
                _put(weight, bucket.views[weight])
            bucket.absent.clear()
        self._sum_full_buckets()
        for bucket in self._buckets:
            assert bucket.sum is not None
            bucket.sum.wait()
            bucket.flat.mul_(1.0 / self._num_ranks)

    def _take(self, bucket: _Bucket, weight: nn.Parameter) -> None:
        if self._due:
            _put(weight, bucket.views[weight])
            bucket.absent.discard(weight)
            self._sum_full_buckets()

    def _sum_full_buckets(self) -> None:
        while self._next < len(self._buckets) and not self._buckets[self._next].absent:
            bucket = self._buckets[self._next]
            bucket.sum = dist.all_reduce(bucket.flat, async_op=True)
            self._next += 1


@torch.no_grad()
def _put(weight: nn.Parameter, view: Tensor) -> None:
    if weight.grad is None:
        view.zero_()
    elif weight.grad is not view:
        view.copy_(weight.grad)
    weight.grad = view


def _parts(weights: Iterable[nn.Parameter], most_bytes: int) -> Iterator[list[nn.Parameter]]:
    """Weights of one kind in succession, each part as large as a bucket unless one weight alone is larger."""
    part: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        if part and (size + weight.nbytes > most_bytes or weight.dtype != part[0].dtype):
            yield part
            part, size = [], 0
        part.append(weight)
        size += weight.nbytes
    if part:
        yield part


def _bucket(weights: list[nn.Parameter]) -> _Bucket:
    flat = torch.zeros(sum(weight.numel() for weight in weights), dtype=weights[0].dtype, device=weights[0].device)
    views, start = {}, 0
    for weight in weights:
        # Weights are dense, channels_last ones too: with their strides a gradient is copied as it lies.
        views[weight] = flat[start : start + weight.numel()].as_strided(weight.shape, weight.stride())
        start += weight.numel()
    return _Bucket(flat, views)


class Clipping:
    """Scales down gradients that are too large; never waits for the device.

    `most`, where it is a number, is the largest global norm (0: no limit). With None, the gradient of each tensor of weights has a norm of at
    most `agc` times the tensor's own (0: no limit): adaptive gradient clipping, Brock et al., arXiv 2102.06171, section 4.1, but by whole
    tensors instead of output channels. The values of one-dimensional tensors (batch norms and biases) count as at least five each.

    `clipped` sums up, on the device, the share of each step's tensors that were scaled down; whoever writes it down sets it back.
    """

    def __init__(self, most: float | None, agc: float = 0.2) -> None:
        self._most, self._agc = most, agc
        self.clipped = torch.zeros(())
        self._of: list[int] = []
        self._smallest = torch.zeros(0)

    def in_words(self) -> str:
        """How gradients are clipped, for people."""
        if self._most is None and self._agc:
            return f"each tensor's gradient at {self._agc:g} x the norm of its weights"
        return f"global norm {self._most:g}" if self._most else "none"

    def clip_all(self, weights: Iterable[Tensor]) -> Tensor:
        """Clip the gradients of all weights that have one; their global norm as it was, a tensor []."""
        weights = [weight for weight in weights if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return self.clip(gradients, norms_of(gradients), weights)

    @torch.no_grad()
    def clip(self, gradients: Sequence[Tensor | None], norms: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Clip gradients in place; their global norm as it was.

        `norms[k]` is the norm of the gradient of `weights[k]`, and `gradients[k]` what this rank has of it: all, a part, or None. A norm that
        is not finite makes gradients that are not: it is not hidden.
        """
        norm: Tensor = torch.linalg.vector_norm(norms)
        if self._most:
            factors = (self._most / (norm + 1e-6)).clamp(max=1.0).expand(len(gradients))
            self._scale(gradients, factors)
        elif self._most is None and self._agc:
            limits = self._agc * torch.maximum(norms_of(weights), self._smallest_norms(weights))
            self._scale(gradients, (limits / (norms + 1e-6)).clamp(max=1.0))
        return norm

    def _smallest_norms(self, weights: Sequence[Tensor]) -> Tensor:
        # Made once: to copy them to the device in each step would be to wait for it.
        if self._of != [id(weight) for weight in weights]:
            values = [SMALLEST_NORM if weight.ndim > 1 else SMALLEST_VALUE * math.sqrt(weight.numel()) for weight in weights]
            self._of = [id(weight) for weight in weights]
            self._smallest = torch.stack([weights[0].new_full((), value) for value in values])
        return self._smallest

    def _scale(self, gradients: Sequence[Tensor | None], factors: Tensor) -> None:
        # Written so that a factor that is not a number counts; the sum is on the CPU before the first step.
        self.clipped = 1.0 - (factors == 1.0).float().mean() + self.clipped
        if factors.is_cuda:  # to ask which of them are 1 would be to wait for it
            here = [
                (gradient, factor) for gradient, factor in zip(gradients, factors.unbind(), strict=True) if gradient is not None
            ]
            if here:
                torch._foreach_mul_(*map(list, zip(*here, strict=True)))
            return
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if gradient is not None and factor != 1.0:
                gradient.mul_(factor)


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, [len(tensors)], on their device."""
    return torch.stack(torch._foreach_norm(list(tensors)))


def build_clipping(optim: Optim) -> Clipping:
    """The clipping that a recipe's optim section describes."""
    return Clipping(optim.clip_global_norm, optim.clip_agc)
