"""Images as they are decoded, for networks that prepare them by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.data import reasons
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.graphs import decoded
from inceptionctl.data.reading import SECONDS_TO_READ
from inceptionctl.data.stream import Stream


class PictureLoader:
    """The images of `batches` (ranges of indices of the data set), in order, decoded on the CPU.

    Raises DataError that names the files when one cannot be read or decoded.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batches: Sequence[range],
        *,
        exif_orientation: bool,
        num_threads: int,
        prefetch: int = 2,
        seconds_to_read: float = SECONDS_TO_READ,
    ) -> None:
        self._stream = Stream(
            dataset,
            ((np.arange(batch.start, batch.stop), ()) for batch in batches),
            lambda source, size, threads, *, on_cpu=False: decoded(
                source,
                batch_size=size,
                num_threads=threads,
                device_id=None,
                decode="cpu",
                prefetch=prefetch if size > 1 else 1,
                most_pixels=reasons.MOST_PIXELS,
                exif_orientation=exif_orientation,
            ),
            batch_size=max(map(len, batches), default=1),
            num_threads=num_threads,
            device_id=None,
            decodes_on_gpu=False,
            bad=BadImages(),
            fill=False,
            seconds_to_read=seconds_to_read,
        )

    def __iter__(self) -> Iterator[list[Tensor]]:
        """One list of uint8 [height, width, 3], RGB, a batch; valid for as long as they are referred to."""
        for images, labels in self._stream.lists():
            yield [from_dlpack(images[k]) for k in range(len(labels))]

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory."""
        self._stream.close()
