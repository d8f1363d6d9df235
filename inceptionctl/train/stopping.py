"""After which step all ranks stop, when a signal has come to any of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from inceptionctl.distributed.signals import RankSignals


class Stop:
    """The vote on stopping. A rank alone decides by itself.

    Ranks that stopped after different steps would wait for each other for ever, so every step needs an answer that is the same
    everywhere. It costs no call of its own: `votes` is the last place of the flat tensor of batch-norm statistics, which is summed over
    the ranks after every step anyway (train/batch_norm.py), so that any rank's vote is every rank's positive number.

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
