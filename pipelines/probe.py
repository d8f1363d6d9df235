"""Two small graphs that look into files: what the header says, and whether the whole image decodes."""

from __future__ import annotations

from nvidia.dali import Pipeline, fn, types

from pipelines.decoding import whole_image


def headers(*, batch_size: int, num_threads: int, exif_orientation: bool) -> Pipeline:
    """Read only headers; run with `encoded=[uint8 arrays]`, gives int64 [height, width, channels] a file. Decodes nothing."""
    pipe = _empty(batch_size, num_threads)
    with pipe:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8)
        pipe.set_outputs(fn.peek_image_shape(encoded, adjust_orientation=exif_orientation))
    return pipe


def images(*, batch_size: int, num_threads: int, exif_orientation: bool) -> Pipeline:
    """Decode whole images; run with `encoded=[uint8 arrays]`, gives int64 [height, width, channels] a file."""
    pipe = _empty(batch_size, num_threads)
    with pipe:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8)
        pipe.set_outputs(whole_image(encoded, device="cpu", exif_orientation=exif_orientation).shape())
    return pipe


def _empty(batch_size: int, num_threads: int) -> Pipeline:
    # Nothing is prefetched, so that a run that has returned has nothing left in flight: its errors belong to its files.
    return Pipeline(batch_size=batch_size, num_threads=num_threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
