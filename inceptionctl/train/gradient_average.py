"""The mean of the gradients over the ranks, summed beside the backward pass that makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 << 20  # torch DDP's


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
        for bucket in self._buckets:
            for weight in bucket.views:
                take = partial(self._take, bucket)
                weight.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]

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
