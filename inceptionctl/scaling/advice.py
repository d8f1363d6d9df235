"""What a plan means, in words: what it stands on, what limits first, and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inceptionctl.scaling.planning import Point, Site
from inceptionctl.scaling.prediction import GOOD, Compute, Limit
from inceptionctl.words import counted

# Goyal et al. 2017, arXiv 1706.02677: no loss of accuracy up to here for ResNet-50, with warm-up and the rate scaled with the batch.
TRIED_BATCH = 8192


def advise(points: Sequence[Point], compute: Compute, site: Site, zero_stage: int) -> list[str]:
    """Sentences, the most important first."""
    told = [point for point in points if point.step]
    words = [_first_limit(told, site, zero_stage)]
    words += [f"{counted(point.gpus, 'GPU')}: {point.problem}" for point in points if point.problem]
    if any(point.problem for point in points):
        words.append("--scale-batch plans each number of GPUs with train.micro_batch_size images a GPU instead")
    words += _small_batches(told, compute) + _large_batches(told)
    if site.loader_per_core is None:
        words.append("the loader is taken as fast enough: --data FILE (of `inceptionctl bench data --output FILE`) counts it")
    if site.file_system is None:
        words.append("the file system is taken as fast enough: --file-system-rate GB/S counts it")
    return words


def _first_limit(points: Sequence[Point], site: Site, zero_stage: int) -> str:
    for point in points:
        if point.step and point.step.limit != "compute":
            return f"from {counted(point.gpus, 'GPU')} on, {_WHAT[point.step.limit]}. {_remedy(point, points[-1], site, zero_stage)}"
    last = points[-1]
    reached = last.step.efficiency if last.step else 0.0
    return f"the GPUs themselves limit, up to {last.gpus} of them ({reached:.0%} of their own speed): only a faster step helps"


_WHAT: dict[Limit, str] = {
    "averaging": "the averaging of gradients limits",
    "data loading": "the processor cores that prepare images limit",
    "file system": "the file system limits",
}


def _remedy(point: Point, last: Point, site: Site, zero_stage: int) -> str:
    step, batch = point.step, point.batch
    assert step and batch
    if step.limit == "data loading":
        needed = math.ceil(batch.global_batch_size / point.gpus / (step.compute + step.exposed) / (site.loader_per_core or 1.0))
        return f"A GPU needs {counted(needed, 'core')}, not {site.cores_per_gpu}; or let the GPUs decode (data.decode: mixed)"
    if step.limit == "file system":
        rates = [
            f"{_file_rate(one, site) / 1e9:.1f} GB/s for {counted(one.gpus, 'GPU')}" for one in dict.fromkeys((point, last))
        ]
        return f"It would have to give {', '.join(rates)}; or copy the images, packed (inceptionctl data pack), to the nodes' own disks"
    where = "after the backward pass, as DeepSpeed does it under ZeRO" if zero_stage else "the rest beside the backward pass"
    text = (
        f"A step of {step.seconds * 1e3:.1f} ms waits {step.exposed * 1e3:.1f} ms for it ({step.exchange * 1e3:.1f} ms in all, {where}),"
        f" so {step.efficiency:.0%} of the GPUs' speed is reached."
        f" More images a GPU ({point.useful_batch:,} over all GPUs for {GOOD:.0%}), more or faster network cards, or fewer GPUs"
    )
    return text + ("; train.zero_stage: 0 averages beside the pass and collects no weights" if zero_stage else "")


def _file_rate(point: Point, site: Site) -> float:
    """Bytes a second that the images of a step would need, if nothing else held it up."""
    assert point.step and point.batch
    return point.batch.global_batch_size * site.image_bytes / (point.step.compute + point.step.exposed)


def _small_batches(points: Sequence[Point], compute: Compute) -> list[str]:
    small = [point for point in points if point.batch and point.batch.micro_batch_size < compute.measured_images]
    if not small:
        return []
    sizes = ", ".join(
        f"{counted(point.gpus, 'GPU')} take{'s' if point.gpus == 1 else ''} {point.batch.micro_batch_size}"
        for point in small
        if point.batch
    )
    return [
        f"one GPU was measured with {counted(compute.measured_images, 'image')} at once, but {sizes}: small passes are slower than told here;"
        f" measure one more and give --step twice"
    ]


def _large_batches(points: Sequence[Point]) -> list[str]:
    if not any(max(point.batch.global_batch_size, point.useful_batch or 0) > TRIED_BATCH for point in points if point.batch):
        return []
    return [
        f"a global batch above {TRIED_BATCH:,} may cost accuracy: up to there ResNet-50 lost none (Goyal et al. 2017), with warm-up and the"
        " learning rate scaled with the batch"
    ]
