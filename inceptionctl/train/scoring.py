"""Count errors of a network over images; the same code while training and in `inceptionctl evaluate`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from inceptionctl.data.loaders import Batch
from inceptionctl.train.precision import Precision, autocast
from inceptionctl.words import percent


@dataclass(frozen=True)
class Scores:
    """Sums over images: `loss` is cross entropy without smoothing; `predicted` and `labels` are of this rank, in its order."""

    num_images: int
    loss_sum: float
    top1_correct: int
    top5_correct: int
    predicted: Tensor
    labels: Tensor

    @property
    def top1_error(self) -> float:
        """Percent of images whose likeliest class is wrong."""
        return percent(self.num_images - self.top1_correct, self.num_images)

    @property
    def top5_error(self) -> float:
        """Percent of images whose class is not among the five likeliest (all, where there are fewer)."""
        return percent(self.num_images - self.top5_correct, self.num_images)

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return self.loss_sum / self.num_images


@torch.inference_mode()
def score(
    model: nn.Module, batches: Iterable[Batch], *, device: torch.device, precision: Precision, num_ranks: int = 1
) -> Scores:
    """Run a network in evaluation mode over batches and sum up, over all ranks (a collective call for more than one).

    Counts are integers and the loss is summed in float64, so that unequal shares of the ranks weigh as they should.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    predicted, labels, count = [], [], 0
    for batch in batches:
        with autocast(precision, device):
            logits = model(batch.images)
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == batch.labels[:, None]
        loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        sums[:3] += torch.stack([loss.double(), hits[:, 0].sum().double(), hits.any(1).sum().double()])
        count += len(batch.labels)  # on the host: to send it to the GPU would be to wait for it
        predicted.append(best[:, 0])
        labels.append(batch.labels)
    sums[3] = count
    if num_ranks > 1:
        dist.all_reduce(sums)
    loss_sum, top1, top5, num_images = sums.tolist()
    empty = torch.empty(0, dtype=torch.long)
    return Scores(
        int(num_images),
        loss_sum,
        int(top1),
        int(top5),
        torch.cat(predicted).cpu() if predicted else empty,
        torch.cat(labels).cpu() if labels else empty,
    )
