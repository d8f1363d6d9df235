"""What a training step consists of beside the engine and the optimizer: number format, loss, and what ranks share and watch in it."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from inceptionctl.data.imageset import ImageSet
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.models.inception_resnet import ResidualBlock
from inceptionctl.recipe.schema import HealthSection

Precision = Literal["fp32", "bf16"]

# What a network gives while it is trained: logits, and those of its auxiliary head where it has one.
Output = Tensor | tuple[Tensor, Tensor]

LARGEST_SAFE_SCALE = 0.3  # of the paper's "between 0.1 and 0.3"


def native_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively: Ampere and later GPUs; CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` becomes bf16 where it is native, else fp32: emulated bfloat16 is slower than fp32."""
    if wanted == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return wanted


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and products in bfloat16, weights and statistics in fp32; nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def allow_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of fp32 products and convolutions to TF32 (10 bits of mantissa for 23), both or neither, from here on.

    By itself torch takes convolutions for TF32 and products not, unless TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set, as in NVIDIA's containers.
    """
    # torch has two sets of flags for this, and raises where one is read after the other alone was set. The old one sets both but
    # for cuDNN as a whole, which inductor's convolutions go by.
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32", category=UserWarning)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.fp32_precision = "tf32" if allowed else "ieee"


def training_loss(
    output: Output,
    labels: Tensor,
    mixed: tuple[Tensor, Tensor] | None = None,
    *,
    kind: Literal["cross_entropy", "bce"] = "cross_entropy",
    label_smoothing: float,
    aux_loss_weight: float,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(what the gradient is of, what is reported): mean losses of a micro batch, in fp32. `mixed` is that of a Batch.

    The first has the auxiliary head's loss added, weighted as TF-slim does (0.4); the second is the classifier's alone, which can
    be compared between networks with and without such a head. Both have the smoothed labels, and the `class_weights`, fp32 [classes].
    """
    logits, aux_logits = output if isinstance(output, tuple) else (output, None)
    losses = [
        _loss(one.float(), labels, mixed, kind, label_smoothing, class_weights)
        for one in (logits, aux_logits)
        if one is not None
    ]
    return losses[0] + aux_loss_weight * losses[1] if len(losses) > 1 else losses[0], losses[0]


def _loss(
    logits: Tensor,
    labels: Tensor,
    mixed: tuple[Tensor, Tensor] | None,
    kind: str,
    smoothing: float,
    class_weights: Tensor | None,
) -> Tensor:
    if class_weights is None and kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits, _targets(logits, labels, mixed, smoothing))
    if class_weights is None and mixed is None:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    # Linear in the target: the loss with a mixed label is the mixture of both.
    each = _bce_of if kind == "bce" else _cross_entropy_of
    own = each(logits, labels, smoothing, class_weights)
    if mixed is None:
        return own.mean()
    others, weights = mixed
    return (weights * own + (1.0 - weights) * each(logits, others, smoothing, class_weights)).mean()


def _cross_entropy_of(logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None) -> Tensor:
    return functional.cross_entropy(logits, labels, class_weights, label_smoothing=smoothing, reduction="none")


def _bce_of(logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Weighted by the label's class: a weight on the column of a class would weigh its negatives too, which are all other images."""
    targets = _targets(logits, labels, None, smoothing)
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return losses if class_weights is None else class_weights[labels] * losses


def class_weights_of(wanted: Literal["balanced"] | Sequence[float] | None, images: ImageSet) -> Tensor | None:
    """`train.class_weights` as fp32 [classes] for these training images; None without.

    `balanced` is n / (classes * count), as scikit-learn's, over the classes that have images; the mean over the images is 1. A weighted
    loss is divided by the number of images, not by the sum of their weights as in torch: so the gradient of a batch does not
    depend on how ranks and micro batches divide it.
    """
    if wanted is None:
        return None
    if wanted != "balanced":
        return torch.tensor(wanted, dtype=torch.float32)
    counts = torch.bincount(torch.from_numpy(images.labels.astype("int64")), minlength=len(images.classes)).double()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp_min(1.0)), 0.0).float()


def _targets(logits: Tensor, labels: Tensor, mixed: tuple[Tensor, Tensor] | None, smoothing: float) -> Tensor:
    """Probabilities [N, classes], smoothed as timm's BinaryCrossEntropy does (Wightman et al. 2021, section 3.1)."""
    num_classes = logits.shape[1]
    hard = functional.one_hot(labels, num_classes).to(logits.dtype)
    if mixed is not None:
        others, weights = mixed
        hard = torch.lerp(functional.one_hot(others, num_classes).to(logits.dtype), hard, weights[:, None])
    return hard * (1.0 - smoothing) + smoothing / num_classes


def noise_seed(seed: int, batch: int, micro: int) -> int:
    """Seed of the random numbers of one pass: of micro batch number `micro` of a whole batch of the stream."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<4q", seed, batch, micro, 0), digest_size=8).digest()) >> 1


class SharedStatistics:
    """Keeps the running means and variances of all ranks equal: their average, after every optimizer step.

    Each rank normalises by its own micro batch; without this the running statistics drift apart and rank 0's would be saved.
    The average counts as one update for each rank's micro batch: the norms' momentum is raised to `momentum_over_ranks`. So what
    is left of the history depends on how many micro batches were seen, and not on how many ranks saw them.
    All of them lie in one flat tensor (the modules hold views), so that a step costs one small all-reduce and no copies. Doing it
    every step, and not only before an evaluation or a save, gives the same numbers whenever a run is saved: averaging is linear,
    but its rounding is not, and a resumed run must equal one that was never stopped bit for bit.

    `votes`, the place behind what is trained from the start, belongs to `Stop`: it goes round with the statistics for nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        num_ranks: int,
        frozen: Iterable[nn.Module] = (),
        later: Sequence[Iterable[nn.Module]] = (),
    ) -> None:
        """`later` are modules that are `frozen` too at first; each entry joins when `include` says so."""
        self.num_ranks = num_ranks
        # Frozen statistics are the same everywhere, and would drift by the rounding of the division.
        still = {id(module) for block in (*frozen, *itertools.chain(*later)) for module in block.modules()}
        stages = [[module for module in model.modules() if id(module) not in still], *later]
        norms = [[module for module in stage if isinstance(module, _BatchNorm)] for stage in stages]
        for module in itertools.chain(*norms):
            if module.momentum is not None:
                module.momentum = momentum_over_ranks(module.momentum, num_ranks)
        buffers = [[tensor for module in stage for tensor in _statistics(module)] for stage in norms]
        sizes = [sum(buffer.numel() for buffer in stage) for stage in buffers]
        self.flat = torch.empty(sum(sizes) + 1, device=next(model.parameters()).device)
        # Behind what is trained from the start: what joins later follows, so that what goes round is always the beginning.
        self.votes = self.flat[sizes[0] : sizes[0] + 1].zero_()
        self._ends = [end + 1 for end in itertools.accumulate(sizes)]
        self._end = self._ends[0]
        start = 0
        for stage, end in zip(buffers, self._ends, strict=True):
            for buffer in stage:
                view = self.flat[start : start + buffer.numel()].view_as(buffer)
                view.copy_(buffer)
                buffer.data = view
                start += buffer.numel()
            start = end

    def include(self, stage: int) -> None:
        """Average those of the first so many entries of `later` too, and of no others."""
        self._end = self._ends[stage]

    @torch.no_grad()
    def average(self) -> None:
        """Average over the ranks; a collective call."""
        if self.num_ranks > 1:
            shared = self.flat[: self._end]
            dist.all_reduce(shared)
            shared.div_(self.num_ranks)


def momentum_over_ranks(momentum: float, num_ranks: int) -> float:
    """Share of the new in one update that leaves as much of the old as `num_ranks` updates with `momentum`, one after another."""
    # One rank's own value is not rounded: a training on one rank is the same, bit for bit, with and without this.
    return 1 - (1 - momentum) ** num_ranks if num_ranks > 1 else momentum


def _statistics(module: _BatchNorm) -> list[Tensor]:
    return [tensor for tensor in (module.running_mean, module.running_var) if tensor is not None]


class Stop:
    """The vote on stopping. A rank alone decides by itself.

    Ranks that stopped after different steps would wait for each other for ever, so every step needs an answer that is the same
    everywhere. It costs no call of its own: `votes` is a place of the flat tensor of batch-norm statistics, which is summed over
    the ranks after every step anyway (`SharedStatistics`), so that any rank's vote is every rank's positive number.

    On a CPU the sum is there when that call returns. On GPUs it is copied to pinned memory behind the step's other work and looked at
    one step later: the host waits for the end of the step before, when a whole step more is queued behind it, and the GPU for nothing.
    A store that ranks ask (TCPStore) would be a question to rank 0 a step and rank, and would still need a step to agree upon; a gloo
    group beside NCCL would need a network interface that gloo finds.
    """

    def __init__(self, signals: RankSignals, num_ranks: int, votes: Tensor) -> None:
        self._signals = signals
        self._num_ranks = num_ranks
        self._votes = votes
        self._copied: torch.cuda.Event | None = None
        self._copy = torch.zeros(1, pin_memory=votes.is_cuda)

    @property
    def requested(self) -> str | None:
        """Name of the signal that has come to this rank."""
        return self._signals.requested

    def vote(self) -> None:
        """Before the statistics go round. Without a request there is nothing to do: the place is zero."""
        if self.requested:
            self._votes.fill_(1.0)

    def is_agreed(self) -> bool:
        """After the statistics went round, once a step: whether to stop here, the same on all ranks."""
        if self._num_ranks == 1:
            return self.requested is not None
        if not self._votes.is_cuda:
            return float(self._votes) > 0.0
        agreed = False
        if self._copied is not None:
            self._copied.synchronize()
            agreed = float(self._copy) > 0.0
        self._copied = self._copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copy.copy_(self._votes, non_blocking=True)
        self._copied.record()
        return agreed

    def ask_all(self) -> bool:
        """The same, of this moment, by a collective call that waits: where the ranks have waited for each other anyway."""
        if self._num_ranks == 1:
            return self.requested is not None
        votes = torch.full_like(self._votes, float(self.requested is not None))
        dist.all_reduce(votes)
        return float(votes) > 0.0


@dataclass(frozen=True)
class Health:
    """What one pass showed: `zero_share` of the values before the average pool (None: the network names no pool), and the root mean
    square of each block's output in the order of the forward pass."""

    zero_share: float | None = None
    activation_rms: dict[str, float] = field(default_factory=dict)

    @property
    def first_not_finite(self) -> str | None:
        """The first block whose output is not finite."""
        return next((name for name, scale in self.activation_rms.items() if not math.isfinite(scale)), None)

    @property
    def first_silent(self) -> str | None:
        """The first block that gives nothing but zeros."""
        return next((name for name, scale in self.activation_rms.items() if scale == 0.0), None)

    @property
    def largest(self) -> str | None:
        """The block with the largest activations."""
        return max(self.activation_rms, key=lambda name: self.activation_rms[name], default=None)


class HealthWatch:
    """Measures a network in the passes that it is told to listen to; costs nothing in the others but a call of a hook.

    Two reductions over each block's output, no wait for the device: `numbers` stay on it until somebody reads them. With `always` it
    listens to every pass, for a network that is compiled as a whole: a graph without the reductions and one with them would take
    twice the time to compile, and in the graph they cost next to nothing.
    """

    def __init__(self, model: nn.Module, section: HealthSection, always: bool = False) -> None:
        self.section = section
        self._always = always
        self.listening = always
        self.num_bad_windows = 0
        self._blocks = dict(watched_blocks(model)) if section.watch else {}
        self._pool = section.watch and isinstance(getattr(model, "pool", None), nn.Module)
        self._zeros: Tensor | None = None
        # Every name from the beginning: for torch.compile another set of keys would be another graph.
        self._scales: dict[str, Tensor | None] = dict.fromkeys(self._blocks)
        for name, block in self._blocks.items():
            block.register_forward_hook(self._record_scale(name))
        if self._pool:
            # An extra batch norm before the pool makes something else of zeros.
            last = getattr(model, "extra_batch_norm", None) or model.pool
            last.register_forward_pre_hook(self._record_zeros)  # type: ignore[union-attr]

    def _record_scale(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.listening and isinstance(output, Tensor):
                # In fp32: the squares of bf16 activations would overflow its few digits, not its range.
                norm = torch.linalg.vector_norm(output.detach(), dtype=torch.float32)
                self._scales[name] = norm / math.sqrt(output.numel())

        return hook

    def _record_zeros(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.listening:
            values = inputs[0].detach()
            self._zeros = 1.0 - torch.count_nonzero(values).float() / values.numel()

    def listen(self, wanted: bool) -> None:
        """Whether the pass that comes is wanted."""
        self.listening = wanted or self._always

    def numbers(self) -> list[Tensor]:
        """What the last pass listened to showed, one number a tensor, on the device; the order is that of `health`."""
        zeros = [] if self._zeros is None else [self._zeros]
        return [*zeros, *(scale for scale in self._scales.values() if scale is not None)]

    def health(self, numbers: list[float]) -> Health:
        """`numbers` read from the device (and averaged over the ranks)."""
        left = list(numbers)
        zero_share = None if self._zeros is None else left.pop(0)
        names = [name for name, scale in self._scales.items() if scale is not None]
        return Health(zero_share, dict(zip(names, left, strict=True)))

    def judge(self, health: Health) -> bool:
        """Count a window; whether the network is dead by now: too many zeros in so many windows in succession."""
        bad = health.zero_share is not None and health.zero_share > self.section.max_zero_share
        self.num_bad_windows = self.num_bad_windows + 1 if bad and self.section.stop_when_dead else 0
        return self.num_bad_windows >= self.section.patience_windows

    @property
    def suspects(self) -> bool:
        """Whether the last window looked dead: what is saved now may be worthless."""
        return self.num_bad_windows > 0


def watched_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The stages of a network that lie before its pool, by name; of a stage that is a row of blocks, each block."""
    for stage in getattr(model, "STAGES", ()):
        if stage.module in ("pool", "classifier"):
            return
        module = model.get_submodule(stage.module)
        if isinstance(module, nn.Sequential):
            yield from ((f"{stage.module}.{name}", block) for name, block in module.named_children())
        else:
            yield stage.module, module


@torch.no_grad()
def largest_value(model: nn.Module) -> Tensor:
    """The largest of all weights and statistics by magnitude, fp32 []; not finite as soon as one of them is not. No wait for the device."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    # Of the ways to ask this the quickest on a CPU: 9 ms for Inception-v4; the maximum norm takes 115.
    return torch.stack([bound for value in values for bound in torch.aminmax(value)]).abs().max().float()


def remedy(model: nn.Module) -> str:
    """What helps most likely, for a hint: the paper's section 3.3 for residuals that are not scaled down, else the usual."""
    # The last block of TF-slim's v2 adds its residual unscaled by design: it has no ReLU that could die.
    scales = {block.scale for block in model.modules() if isinstance(block, ResidualBlock) and isinstance(block.act, nn.ReLU)}
    if scales and max(scales) > LARGEST_SAFE_SCALE:
        return (
            f"scale the residuals down to between 0.1 and 0.3 (the paper's section 3.3): they are at {max(scales):g};"
            " model.residual_scale=null takes 0.17, 0.1 and 0.2"
        )
    return (
        "lower schedule.base_lr, add schedule.warmup_epochs or set optim.clip_global_norm;"
        " train.precision=fp32 tells whether it is rounding"
    )
