"""What every loader is: one pipeline with what is fed to it and what is inside it; it goes on past images that cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.data import reasons
from inceptionctl.data.bad_images import BadImages, Trial
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.graphs import PipelineSettings
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.machine_faults import FROM_DALI, machine_fault
from inceptionctl.data.read_ahead import Encoded, ReadAhead, may_be_cut
from inceptionctl.errors import DataError, EnvironmentFault

Inputs = tuple[Any, ...]
Indices = NDArray[np.int64]
Graph = Callable[[Callable[[], Inputs], PipelineSettings], Any]
"""Makes a pipeline from what feeds it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Images with their labels, on the loader's device; valid for as long as they are referred to."""

    images: Tensor
    """[N, 3, px, px], RGB, (value in [0, 1] - mean) / std, in channels_last; float32, or bfloat16 if the loader was asked for it."""
    labels: Tensor
    """int64 [N]."""
    mixed: tuple[Tensor, Tensor] | None = None
    """Where images are mixed (data/mix.py): the labels of their partners, int64 [N], and the weights of their own, float32 [N]."""


@dataclass(frozen=True)
class _Fed:
    """One batch on its way through the pipeline."""

    index: Indices
    encoded: Sequence[Encoded | str]
    """Images as they are stored, or why one could not be read."""
    inputs: Inputs
    """What the graph takes besides, of as many images."""

    def one(self, k: int, label: NDArray[np.int64], encoded: Encoded) -> Inputs:
        """A batch of one: the k-th image's inputs, with whatever image."""
        return [encoded], label, *(values[k : k + 1] for values in self.inputs)


class BaseLoader(Iterator[T]):
    """One pipeline over a data set, fed by an iterator of (indices, inputs of the graph after image and label); used up once.

    When the pipeline raises, the images inside it are tried one by one, and a new pipeline goes on from there without the bad ones;
    unless it is the machine that failed, for which no image is blamed: that is an EnvironmentFault. Where a GPU decodes, an image that
    the CPU's decoder refuses is bad too: what is bad does not depend on the machine.

    Bad images are noted in `bad`, and left out; with `fill` the first image after it in the data set that can be used takes the place
    (label and all, with the place's own inputs). Raises DataError that names the files when more are bad than `bad` bears (none by
    default). Subclasses say in `__next__` what they make of the pipeline's outputs.
    """

    def __init__(
        self,
        dataset: ImageSet,
        inputs: Iterator[tuple[Indices, Inputs]],
        graph: Graph,
        settings: LoaderSettings,
        *,
        batch_size: int,
        exif_orientation: bool,
        bad: BadImages | None = None,
        fill: bool = False,
    ) -> None:
        self._dataset = dataset
        self._ahead = ReadAhead(dataset, inputs, seconds=settings.seconds_to_read)
        self._device_id = settings.device_id
        self._bad = BadImages() if bad is None else bad
        self._fill = fill
        self._in_flight: deque[_Fed] = deque()
        self._again: deque[_Fed] = deque()
        self._failed_for_no_reason = False
        whole = PipelineSettings(
            batch_size=batch_size,
            num_threads=settings.num_threads,
            device_id=settings.device_id,
            decode=settings.decode,
            decode_roi=settings.decode_roi,
            prefetch=settings.prefetch if batch_size > 1 else 1,
            most_pixels=reasons.MAX_PIXELS,
            exif_orientation=exif_orientation,
        )
        single = replace(whole, batch_size=1, num_threads=1, prefetch=1)
        on_cpu = replace(single, device_id=None, decode="cpu", decode_roi=True)
        self._build = partial(graph, self._feed, whole)
        tried = [on_cpu, single] if settings.decode == "mixed" else [single]
        self._trials = [_trial(graph, one) for one in tried]
        self._pipe: Any = self._build()

    def _feed(self) -> Inputs:
        # DALI calls this inside run(), in the thread of the caller; StopIteration of the iterator is the end it waits for.
        fed = self._again.popleft() if self._again else self._next_batch()
        self._in_flight.append(fed)
        return fed.encoded, self._labels(fed.index), *fed.inputs

    def _labels(self, index: Indices | list[int]) -> NDArray[np.int64]:
        return self._dataset.labels[index].astype(np.int64)

    def _next_batch(self) -> _Fed:
        while True:
            fed = _Fed(*next(self._ahead))
            # An image that was bad at another place is tried before it can spoil a batch once more.
            doubtful = [k for k, image in enumerate(fed.encoded) if self._is_doubtful(int(fed.index[k]), image)]
            fed = self._without_bad(fed, doubtful)
            if len(fed.index):
                return fed

    def _is_doubtful(self, i: int, image: Encoded | str) -> bool:
        if isinstance(image, str) or (len(self._bad) > 0 and self._dataset.name(i) in self._bad):
            return True
        return len(self._trials) > 1 and may_be_cut(image)

    def lists(self) -> Iterator[tuple[Any, ...]]:
        """The batches as DALI gives them: lists of images, which may differ in size, and last of labels."""
        return iter(self.outputs, None)  # StopIteration of the pipeline ends it

    def outputs(self) -> tuple[Any, ...]:
        """The next of them."""
        try:
            while self._pipe is not None:
                try:
                    outputs: tuple[Any, ...] = self._pipe.run(self._consumer())
                    self._in_flight.popleft()
                    self._failed_for_no_reason = False
                    return outputs
                except FROM_DALI as fault:
                    self._pipe = None
                    self._recover(fault)
            raise StopIteration
        except BaseException:  # the end, too many bad images, or the machine's fault
            self._stop()
            raise

    def _recover(self, fault: Exception) -> None:
        """Find the bad images among those that are inside the pipeline, and build it anew to go on with the others."""
        of_machine = machine_fault(fault)
        if of_machine:
            raise of_machine from fault
        batches, self._in_flight = list(self._in_flight), deque()
        found = [self._without_bad(fed, range(len(fed.index))) for fed in batches]
        if all(one is other for one, other in zip(batches, found, strict=True)):
            # Perhaps it was the machine's fault and has passed; twice on end it has not.
            if self._failed_for_no_reason:
                raise EnvironmentFault(
                    f"the image pipeline failed, though every file in it decodes alone: {reasons.essence(str(fault))}",
                    "memory may have run out: lower train.micro_batch_size or data.num_threads",
                ) from fault
            self._failed_for_no_reason = True
        self._again.extendleft(fed for fed in reversed(found) if len(fed.index))
        self._pipe = self._build()

    def _without_bad(self, fed: _Fed, doubtful: Sequence[int]) -> _Fed:
        """The batch with those of the doubtful images replaced, or left out, that the graph does not take; itself if there are none."""
        bad = [k for k in doubtful if self._is_bad(fed, k, int(fed.index[k]), fed.encoded[k])]
        self._bad.check(self._dataset.root)
        if not bad:
            return fed
        if self._fill:
            return self._filled(fed, bad)
        kept = np.setdiff1d(np.arange(len(fed.index)), bad)
        return _Fed(fed.index[kept], [fed.encoded[k] for k in kept], tuple(values[kept] for values in fed.inputs))

    def _is_bad(self, fed: _Fed, k: int, i: int, image: Encoded | str) -> bool:
        reason = image if isinstance(image, str) else self._fault(fed.one(k, self._labels([i]), image))
        if reason is not None:
            self._bad.note(self._dataset.name(i), reason)
        return reason is not None

    def _fault(self, feed: Inputs) -> str | None:
        return next((reason for trial in self._trials if (reason := trial.fault(feed)) is not None), None)

    def _filled(self, fed: _Fed, bad: Sequence[int]) -> _Fed:
        index, encoded = fed.index.copy(), list(fed.encoded)
        for k in bad:
            index[k], encoded[k] = self._substitute(fed, k)
        return replace(fed, index=index, encoded=encoded)

    def _substitute(self, fed: _Fed, k: int) -> tuple[int, Encoded]:
        # Those that follow in the data set are mostly of the same class.
        for i in (np.arange(1, len(self._dataset)) + fed.index[k]) % len(self._dataset):
            image = self._ahead.read(int(i))
            if not isinstance(image, str) and not self._is_bad(fed, k, int(i), image):
                return int(i), image
            self._bad.check(self._dataset.root)
        raise DataError(f"no image of {self._dataset.folder} can be decoded", "`inceptionctl data check` says why")

    def _consumer(self) -> Any:
        # On a GPU the outputs are ordered into torch's stream and the host does not wait for them.
        return None if self._device_id is None else torch.cuda.current_stream(self._device_id)

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stop()

    def _stop(self) -> None:
        self._pipe = None
        self._ahead.close()


def _trial(graph: Graph, pipeline: PipelineSettings) -> Trial:
    return Trial(lambda source: graph(source, pipeline))


def batch_of(images: Any, labels: Any) -> Batch:
    """DALI's lists of images of one size and of labels as tensors, which are not copied."""
    # Under DALI's dynamic executor an output belongs to whoever holds it. HWC seen as CHW is channels_last.
    return Batch(from_dlpack(images.as_tensor()).permute(0, 3, 1, 2), from_dlpack(labels.as_tensor()))
