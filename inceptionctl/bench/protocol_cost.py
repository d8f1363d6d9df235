"""`bench evaluate`: what a protocol costs an image, beside as many independent single-crop passes as it has crops."""

from __future__ import annotations

import dataclasses
import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch
from PIL import Image
from torch import Tensor

from inceptionctl.bench.figures import Contestant, Figure, costs, interleaved, ratio
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import ImageViews, in_batches
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.crops import cut_out, in_order
from inceptionctl.evaluate.evaluation import Work, answering, answers, view_loader
from inceptionctl.evaluate.subject import Subject
from inceptionctl.protocols import PROTOCOLS, Cut, Protocol, ProtocolName, make_protocol

Places = dict[tuple[int, int], list[Cut]]
Way = Callable[[Work, bool], Tensor]
"""Answers a work's pictures, or a part of them to try a batch size."""
TRIED_CROPS = 192


def bench_evaluate(
    subject: Subject,
    kinds: dict[str, ImageSet],
    protocols: Sequence[ProtocolName],
    *,
    batch_sizes: Sequence[int],
    repeats: int,
    loading: LoaderSettings,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Figure], dict[str, int], float]:
    """Figures, the batch size that was best for each contestant, and the largest difference of a probability between the two ways.

    `kinds` are the pictures by what they are ('square', 'other'). Each way is tried with every batch size on the first kind; the best
    of each is measured. Raises RecipeError for a batch size above the number of pictures: a pass could not fill it. Raises DataError
    when a picture cannot be decoded.
    """
    fewest = min(map(len, kinds.values()))
    if max(batch_sizes) > fewest:
        raise RecipeError(
            f"a pass over {fewest} pictures does not fill a batch of {max(batch_sizes)}",
            f"give more pictures of each kind with --images, or batch sizes up to {fewest}",
        )
    chosen: dict[str, int] = {}
    contestants: list[Contestant] = []
    given: dict[str, Tensor] = {}
    for name in protocols:
        protocol = make_protocol(name, subject.preparation.input_px)
        base = Work(subject, next(iter(kinds.values())), protocol, batch_sizes[0], loading)
        for way, run in _ways(name).items():
            chosen[way] = _best_batch(way, run, base, batch_sizes, progress)
            for kind, images in kinds.items():
                work = dataclasses.replace(base, images=images, batch_size=chosen[way])
                contestants.append(_contestant(f"{way}, {kind}", run, work, given))
    # Trying has made everybody warm.
    figures = costs(contestants, interleaved(contestants, repeats, progress, rounds_before=0), "image")
    pairs = [(f"{_passes(name)}, {kind}", f"{name}, {kind}") for name in protocols if _is_cut(name) for kind in kinds]
    ratios = [ratio(figures, *pair, unit) for pair in pairs for unit in ("s/image", "CPU s/image")]
    difference = max((float((given[one] - given[other]).abs().max()) for one, other in pairs), default=0.0)
    return [*figures, *ratios], chosen, difference


def pictures_by_kind(images: ImageSet, most: int) -> tuple[dict[str, ImageSet], dict[str, str]]:
    """The first `most` square pictures and as many others, and kind -> reason for a kind of which there are none.

    Raises DataError for a header that makes no sense.
    """
    found: dict[str, list[int]] = {"square": [], "other": []}
    for i in range(len(images)):
        try:
            with Image.open(io.BytesIO(images.read(i))) as picture:
                kind = found["square" if picture.width == picture.height else "other"]
        except OSError as fault:
            raise DataError(f"cannot read {images.name(i)}: {fault}", "take it out of the folder") from None
        if len(kind) < most:
            kind.append(i)
        if all(len(listed) == most for listed in found.values()):
            break
    kinds = {kind: images.picked(listed) for kind, listed in found.items() if listed}
    return kinds, {f"{kind} pictures": f"none in {images.folder}" for kind in found if kind not in kinds}


def passes(work: Work) -> Iterator[Tensor]:
    """Probabilities float32 [images, classes] of one single-crop pass over all pictures after the other, one for each of the
    protocol's views.

    A pass is what evaluating by that crop alone would be: it reads and decodes every picture, resizes it to the one scale (or its one
    square to the input), cuts, and asks in whole batches. Passes with the same resizing share a pipeline, as an evaluation that goes
    on for long has its start behind it.
    """
    protocol = work.protocol
    assert protocol is not None
    batches = _whole_batches(work)
    answer = answering(work)
    cuts: Places = {}
    for scale, square, views in _alike(protocol):
        sides = () if scale is None else (protocol.shorter_sides[scale],)
        loader = view_loader(work, batches * len(views), sides, () if square is None else (square,))
        numbered = [view for view in views for _ in batches]

        def asked(pair: tuple[int, Sequence[ImageViews]]) -> Tensor:
            view, pictures = pair
            return answer(torch.stack([cut_out(one, _cut(cuts, protocol, one, view), protocol.input_px) for one in pictures]))

        with closing(loader):
            parts = in_order(asked, zip(numbered, loader, strict=True), work.num_workers)
            for _ in views:
                yield torch.cat([next(parts) for _ in batches])


def _alike(protocol: Protocol) -> Iterator[tuple[int | None, str | None, list[int]]]:
    """(scale, square, numbers of the views) that begin with the same resizing: that to a scale, or of a square to the input."""
    cuts = [view.cut for view in protocol.views(1, 1)]
    for scale in range(len(protocol.shorter_sides)):
        yield scale, None, [number for number, cut in enumerate(cuts) if cut.scale == scale]
    if protocol.whole_square:
        a_square = 2 * (len(protocol.places) + 1)
        for place, square in enumerate(protocol.squares):
            own = [number for number in range(len(cuts)) if number // a_square % len(protocol.squares) == place]
            yield None, square, [number for number in own if cuts[number].scale is None]


def _cut(known: Places, protocol: Protocol, picture: ImageViews, view: int) -> Cut:
    """Worked out once a size: drawing up 144 boxes for each pass would be no part of a single-crop evaluation."""
    size = picture.height, picture.width
    if size not in known:
        known[size] = [
            one.cut if one.cut.scale is None else dataclasses.replace(one.cut, scale=0) for one in protocol.views(*size)
        ]
    return known[size][view]


def _ways(name: ProtocolName) -> dict[str, Way]:
    return {name: _together, _passes(name): _by_passes} if _is_cut(name) else {name: _together}


def _passes(name: ProtocolName) -> str:
    return f"{name.removesuffix('crop')} single passes"


def _is_cut(name: ProtocolName) -> bool:
    return name in PROTOCOLS and not PROTOCOLS[name].dense


def _together(work: Work, part: bool) -> Tensor:
    batches = work.batches if work.protocol else _whole_batches(work)
    return torch.cat(list(answers(work, batches[:1] if part else batches)))


def _by_passes(work: Work, part: bool) -> Tensor:
    some = itertools.islice(passes(work), max(1, TRIED_CROPS // len(work.images)) if part else None)
    return torch.stack(list(some)).mean(0)


def _whole_batches(work: Work) -> list[range]:
    return in_batches(range(len(work.images)), work.batch_size)


def _contestant(name: str, run: Way, work: Work, given: dict[str, Tensor]) -> Contestant:
    def round_() -> None:
        given[name] = run(work, False)

    return Contestant(name, round_, len(work.images))


def _best_batch(way: str, run: Way, work: Work, sizes: Sequence[int], progress: Callable[[str, int, int], None]) -> int:
    """The batch size with which a part of the work takes the least time, after one trial that does not count."""
    seconds = {}
    tried = (sizes[0], *sizes) if len(sizes) > 1 else sizes
    for number, size in enumerate(tried):
        progress(f"{way}, batches of {size}", number, len(tried))
        start = time.perf_counter()
        run(dataclasses.replace(work, batch_size=size), True)
        seconds[size] = time.perf_counter() - start
    return min(seconds, key=lambda size: seconds[size])
