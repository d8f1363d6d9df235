"""What every graph is told besides its own arguments."""

from __future__ import annotations

from dataclasses import dataclass

from nvidia.dali import Pipeline


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """How a pipeline decodes, and on what it runs."""

    batch_size: int
    """Most images of a batch."""
    num_threads: int
    """DALI's CPU threads."""
    device_id: int | None
    """The GPU on which everything after decoding runs; None is the CPU."""
    decode: str
    """'cpu', or 'mixed' for the GPU's decoder."""
    decode_roi: bool
    """In `training` only the crop of an image is decoded, else all of it, and the crop is copied out: the same pixels on a CPU."""
    prefetch: int
    """Batches that are computed ahead."""
    most_pixels: int
    """An image whose header claims more makes the run fail before it is decoded."""
    exif_orientation: bool
    """Photographs are turned upright as their EXIF data say, before anything else."""

    def empty_pipeline(self) -> Pipeline:
        """A pipeline without operators."""
        return Pipeline(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=self.device_id,
            prefetch_queue_depth=self.prefetch,
            exec_dynamic=True,
        )
