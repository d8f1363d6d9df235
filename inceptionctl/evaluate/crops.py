"""Class probabilities of images by many crops: equal crops are computed once, softmax is averaged in fp32."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch
from torch import Tensor

from inceptionctl.cores import single_threaded
from inceptionctl.data.loaders import ImageViews
from inceptionctl.protocols import Cut, Protocol

T = TypeVar("T")
U = TypeVar("U")


def in_order(function: Callable[[T], U], items: Iterable[T], num_workers: int) -> Iterator[U]:
    """`function` of each item without gradients, in the items' order; `num_workers` threads, or this one for 0.

    Each worker computes with one thread of torch's: oneDNN chooses between kernels by the number of threads, and they round
    differently (1x1 convolutions of 24 channels did, with 1 and 2 threads). Side by side they are at least as quick as threads within
    each operator.
    """
    if num_workers == 0:
        with torch.inference_mode():
            yield from map(function, items)
        return

    @torch.inference_mode()
    def work(item: T) -> U:
        return function(item)

    with single_threaded(num_workers, "evaluating") as pool:
        running: deque[Future[U]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > num_workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


Crops = Callable[[], Tensor]


def crop_probabilities(
    groups: Iterable[Sequence[ImageViews]],
    protocol: Protocol,
    answer: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    num_workers: int = 0,
) -> Iterator[Tensor]:
    """float32 [N, classes] on the CPU of each group of N pictures.

    `answer` gives probabilities float32 [n, classes] of uint8 [n, height, width, 3]. A batch never mixes crops of two
    groups: an image's bits may depend on the rest of its batch, and so on its group, but not on earlier groups.
    """
    begun: deque[tuple[int, list[list[int]]]] = deque()

    def batches() -> Iterator[Crops]:
        for pictures in groups:
            crops, weights = (_dense if protocol.dense else _cuts)(pictures, protocol, batch_size)
            begun.append((len(crops), weights))
            yield from crops

    answers = in_order(lambda crops: answer(crops()), batches(), num_workers)
    for first in answers:
        count, weights = begun.popleft()
        together = torch.cat([first, *(next(answers) for _ in range(count - 1))])
        shares = torch.split(together, [len(counts) for counts in weights])
        yield torch.stack([_mean(share, counts) for share, counts in zip(shares, weights, strict=True)])


def _cuts(pictures: Sequence[ImageViews], protocol: Protocol, batch_size: int) -> tuple[list[Crops], list[list[int]]]:
    """(batches of the distinct crops, for each picture how many views each of its crops stands for)."""
    weights = [protocol.weights(picture.height, picture.width) for picture in pictures]
    listed = [(picture, cut) for picture, cuts in zip(pictures, weights, strict=True) for cut in cuts]
    starts = range(0, len(listed), batch_size)
    return [_stacked(listed[start : start + batch_size], protocol.input_px) for start in starts], [
        list(cuts.values()) for cuts in weights
    ]


def _stacked(listed: Sequence[tuple[ImageViews, Cut]], px: int) -> Crops:
    return lambda: torch.stack([cut_out(picture, cut, px) for picture, cut in listed])


def _dense(pictures: Sequence[ImageViews], protocol: Protocol, batch_size: int) -> tuple[list[Crops], list[list[int]]]:
    """Each resized picture with its mirror image. The pool before the classifier takes any grid, and the classifier is linear: its
    answer to the mean over places is the mean of its map of scores."""
    crops = [_with_mirror_image(image) for picture in pictures for image in picture.resized]
    return crops, [[1, 1] * len(picture.resized) for picture in pictures]


def _with_mirror_image(image: Tensor) -> Crops:
    return lambda: torch.stack([image, image.flip(1)])


def cut_out(picture: ImageViews, cut: Cut, px: int) -> Tensor:
    """uint8 [px, px, 3]."""
    resized = None if cut.scale is None else picture.resized[cut.scale][cut.top : cut.top + px, cut.left : cut.left + px]
    crop = picture.squares[cut.top, cut.left] if resized is None else resized
    return crop.flip(1) if cut.mirrored else crop


def _mean(probabilities: Tensor, weights: Sequence[int]) -> Tensor:
    counts = torch.tensor(weights, dtype=torch.float32)
    return (probabilities * counts[:, None]).sum(0) / counts.sum()
