"""`bench step`: a step of the real training loop beside a bare torch loop of the same network, and how near both are to the processor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inceptionctl.bench import timm_step
from inceptionctl.bench.figures import Contestant, Figure, Taken, ratio
from inceptionctl.bench.profile import StepProfile, profiled
from inceptionctl.bench.timm_step import TimmFacts
from inceptionctl.bench.turns import Turns, make_job, run_loop
from inceptionctl.bench.waits import Waits, counted_waits
from inceptionctl.bench.ways import COMPILED, FORMATS, GRAPHS, PARTS, PRODUCTS, compiles, has_timm
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.loaders import Batch
from inceptionctl.distributed.session import Session
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.models.summary import multiply_adds
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.engine import build_clipping
from inceptionctl.train.job import Training
from inceptionctl.train.loop import train_loader
from inceptionctl.train.optim import WeightAverage, build_optimizer
from inceptionctl.train.step import Precision, autocast, native_bf16, training_loss
from inceptionctl.train.torch_compile import Compile, CompileMode, compile_errors, compile_network

ENGINE, LIVE, BARE, DDP = "inceptionctl", "inceptionctl, live data", "bare loop", "torch DDP"
OPTIMIZER, AVERAGES, CLIPPING = "optimizer", "averages of the weights", "norm and clipping"
# A product of matrices so large takes some hundredths of a second, and its matrices no cache.
MATRIX = {"cpu": 2048, "cuda": 8192}
PRODUCTS_A_TURN = {"cpu": 4, "cuda": 50}
VARIANTS: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("fp32", True), ("bf16", True))


class BareLoop:
    """Forward, loss, backward and the optimizer, nothing else: what anybody would write in torch, of the recipe's own parts.

    A batch in bfloat16 stays so where that is the precision, else it becomes float32; `ranks` above 1 make it torch's DDP.
    """

    def __init__(
        self,
        recipe: Recipe,
        batch: Batch,
        precision: Precision,
        channels_last: bool,
        *,
        passes: int,
        ranks: int = 1,
        compiled: tuple[Compile, CompileMode] = ("none", "default"),
    ) -> None:
        self._device, self._precision, self._passes = batch.images.device, precision, passes
        torch.manual_seed(recipe.train.seed)
        self.network: nn.Module = build_model(**recipe.model.network()).to(self._device).train()
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.optimizer = build_optimizer(self.network, recipe.optim, recipe.schedule.base_lr)
        compile_network(self.network, *compiled)
        self._marks = compiled[1] == "cuda-graphs"
        self._model = nn.parallel.DistributedDataParallel(self.network) if ranks > 1 else self.network
        self._smoothing, self._aux_weight = recipe.train.label_smoothing, recipe.train.aux_loss_weight
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._images, self._labels = batch.images.float().contiguous(memory_format=layout), batch.labels
        if precision == "bf16":
            self._images = self._images.to(batch.images.dtype)

    def round(self) -> None:
        """Steps of one micro batch each."""
        for _ in range(self._passes):
            self.optimizer.zero_grad()
            if self._marks:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with autocast(self._precision, self._device):
                output = self._model(self._images)
            loss, _ = training_loss(output, self._labels, label_smoothing=self._smoothing, aux_loss_weight=self._aux_weight)
            torch.autograd.backward(loss)
            self.optimizer.step()


def noise(recipe: Recipe, size: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    """A batch of random images, channels_last as loaders give them, and labels."""
    px, drawn = recipe.model.input_px, torch.Generator().manual_seed(seed)
    images = torch.randn(size, px, px, 3, generator=drawn).to(device, dtype).permute(0, 3, 1, 2)
    return Batch(images, torch.randint(recipe.model.num_classes, (size,), generator=drawn).to(device))


def random_batch(job: Training) -> Batch:
    """Noise in the form in which the job's loader gives images."""
    return noise(job.recipe, job.batch.micro_batch_size, job.device, job.loader_settings.dtype, job.world.rank)


def _bare_loop(
    job: Training, precision: Precision, channels_last: bool, compiled: tuple[Compile, CompileMode], passes: int
) -> BareLoop:
    batch, ranks = random_batch(job), job.world.size
    return BareLoop(job.recipe, batch, precision, channels_last, passes=passes, ranks=ranks, compiled=compiled)


def bench_step(
    joined: Session,
    recipe: Recipe,
    folder: Path,
    signals: RankSignals,
    *,
    live: ImageSet | None,
    steps: int,
    repeats: int,
    ways: Sequence[str],
    profile: StepProfile | None,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Figure], dict[str, Any]]:
    """Figures of this rank, and what they are of; every rank calls it.

    A turn is `steps` steps of one micro batch. `live` images add turns of the loop that read, decode and change them.
    The bare loop, compiled as the recipe says, always takes turns; `ways` (bench/ways.py) are what else does. On a GPU the waits of the
    host are counted in steps that follow; steps after these, with live images if any, fill the `profile`.
    Raises DataError when an image cannot be decoded, RecipeError for CUDA graphs on a CPU, ResumeLater when a signal came.
    """
    if GRAPHS in ways and joined.device.type == "cpu":
        raise RecipeError(f"--ways {GRAPHS}: a CPU has no CUDA graphs", f"leave {GRAPHS} out")
    job = make_job(joined, recipe, folder, signals)
    asked = recipe.train.compile, recipe.train.compile_mode
    bare = _bare_loop(job, job.precision, recipe.train.channels_last, asked, steps)
    own = DDP if joined.world.size > 1 else BARE
    others = [Contestant(own, bare.round, steps)]
    others += _parts(bare, recipe) if PARTS in ways else []
    others += _variants(job, steps) if FORMATS in ways else []
    others += _products(job.device) if PRODUCTS in ways else []
    others += _compiled(job, steps, ways)
    theirs: TimmFacts | None = None
    if has_timm(ways):
        found, theirs = timm_step.contestants(job, random_batch(job), passes=steps, ways=ways)
        others += found
    waits: Waits = {}
    sources: dict[str, Iterator[Batch]] = {ENGINE: itertools.repeat(random_batch(job))}
    # The training's own loader, but for an image that cannot be decoded, which ends the measurement.
    with closing(train_loader(replace(job, train_set=live, bad=BadImages()))) if live else nullcontext() as loader:
        if loader:
            sources[LIVE] = iter(loader)
        together = _meeting(job)
        turns = Turns(
            sources,
            others,
            passes=steps,
            repeats=repeats,
            together=together,
            requested=lambda: signals.requested,
            progress=progress,
            afterwards=itertools.chain(
                counted_waits(sources[ENGINE], together, waits) if job.device.type == "cuda" else (),
                profiled(job, sources.get(LIVE, sources[ENGINE]), together, profile) if profile else (),
            ),
        )
        with compile_errors("network" if compiles(ways) else recipe.train.compile):
            run_loop(job, turns)
    images, multiplications = job.batch.global_batch_size, _multiply_adds(recipe)
    figures = _figures(turns.counted(), {**dict.fromkeys(sources, steps), **{one.name: one.amount for one in others}}, images)
    about = {
        "precision": job.precision,
        "tf32": recipe.train.tf32,
        "channels_last": recipe.train.channels_last,
        "compile": asked,
        "device": job.device.type,
        "ranks": joined.world.size,
        "threads": torch.get_num_threads(),
        "images": images,
        "input_px": recipe.model.input_px,
        "multiply_adds": multiplications,
        "ways": list(ways),
        **({"timm": theirs} if theirs else {}),
        **({"host_waits": waits} if waits else {}),
        **({"profile": profile.to_json()} if profile else {}),
        **(job.memory.numbers() if job.device.type == "cuda" else {"peak_memory_bytes": None}),
    }
    # Backward is twice forward: a product for the gradient of the inputs and one for that of the weights.
    ratios = _ratios(figures, own, job.precision, images, 3 * 2 * multiplications / 1e9)
    return [*figures, *ratios, *timm_step.ratios(figures, ENGINE)], about


def _multiply_adds(recipe: Recipe) -> int:
    with torch.device("meta"):
        return multiply_adds(build_model(**recipe.model.network()), recipe.model.input_px)


def _meeting(job: Training) -> Callable[[], None]:
    """Waits for the device, and for the other ranks."""

    def meet() -> None:
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
        if job.world.size > 1:
            dist.barrier()

    return meet


def _parts(bare: BareLoop, recipe: Recipe) -> list[Contestant]:
    """Again with the gradients that the turn before has left."""
    average, clipping = WeightAverage(bare.network, recipe.train.ema_decay), build_clipping(recipe.optim)
    weights = [*bare.network.parameters()]
    return [
        Contestant(OPTIMIZER, bare.optimizer.step, 1),
        Contestant(AVERAGES, lambda: average.update(bare.network), 1),
        Contestant(CLIPPING, lambda: clipping.clip_all(weights), 1),
    ]


def _variants(job: Training, steps: int) -> list[Contestant]:
    """The bare loop in the other number formats and layouts."""
    own = job.precision, job.recipe.train.channels_last
    found = []
    for precision, channels_last in VARIANTS:
        if (precision, channels_last) != own and (precision == "fp32" or native_bf16(job.device)):
            name = f"{BARE}, {precision}, {'channels_last' if channels_last else 'contiguous'}"
            found.append(Contestant(name, _bare_loop(job, precision, channels_last, ("none", "default"), steps).round, steps))
    return found


def _compiled(job: Training, steps: int, ways: Sequence[str]) -> list[Contestant]:
    """The bare loop, compiled in those of the ways that the recipe does not ask for: its own is there in any case."""
    own = job.recipe.train.compile, job.recipe.train.compile_mode
    found = []
    for way in (COMPILED[name] for name in ways if name in COMPILED):
        if way != own and (way[0] != "none" or own[0] != "none"):
            loop = _bare_loop(job, job.precision, job.recipe.train.channels_last, way, steps)
            found.append(Contestant(f"{BARE}, {_way_in_words(*way)}", loop.round, steps))
    return found


def _way_in_words(what: Compile, mode: CompileMode) -> str:
    if what == "none":
        return "not compiled"
    return f"{what} compiled" + ("" if mode == "default" else f", {mode}")


def _products(device: torch.device) -> list[Contestant]:
    """Products of square matrices: the most that this processor multiplies a second."""
    found = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and not native_bf16(device):
            continue
        size, count = MATRIX[device.type], PRODUCTS_A_TURN[device.type]
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found.append(Contestant(f"matrix product, {name}", _multiplying(one, other, count), count * 2 * size**3))
    return found


def _multiplying(one: Tensor, other: Tensor, count: int) -> Callable[[], None]:
    out = torch.empty_like(one)

    def multiply() -> None:
        for _ in range(count):
            torch.mm(one, other, out=out)

    return multiply


def _figures(taken: dict[str, list[Taken]], amounts: dict[str, int], images: int) -> list[Figure]:
    figures = []
    for name, rounds in taken.items():
        if name.startswith("matrix"):
            figures.append(Figure(name, "GFLOP/s", [amounts[name] / each.seconds / 1e9 for each in rounds]))
            figures.append(Figure(name, "GFLOP/CPU s", [amounts[name] / each.cpu_seconds / 1e9 for each in rounds]))
            continue
        figures.append(Figure(name, "s/step", [each.seconds / amounts[name] for each in rounds]))
        figures.append(Figure(name, "CPU s/step", [each.cpu_seconds / amounts[name] for each in rounds]))
        if name not in (OPTIMIZER, AVERAGES, CLIPPING):
            figures.append(Figure(name, "images/s", [images * amounts[name] / each.seconds for each in rounds]))
    return figures


def _ratios(figures: Sequence[Figure], own: str, own_precision: str, images: int, flop: float) -> list[Figure]:
    """What the goals are about, round by round; `flop` are the GFLOP of a step of one image."""
    values = {(figure.name, figure.unit): figure.values for figure in figures}
    found = []
    for unit in ("s/step", "CPU s/step"):
        for name in (ENGINE, LIVE):
            if (name, unit) in values:
                found.append(ratio(figures, name, own, unit))
        if (OPTIMIZER, unit) in values:
            names = ((OPTIMIZER, unit), (AVERAGES, unit), (ENGINE, unit))
            parts = zip(*(values[name] for name in names), strict=True)
            shares = [100.0 * (a + b) / step for a, b, step in parts]
            found.append(Figure("optimizer and averages, share of a step", f"% of {unit}", shares))
    for (name, unit), costs in values.items():
        precision = "fp32" if "fp32" in name else own_precision
        peak = values.get((f"matrix product, {precision}", "GFLOP/" + unit.removesuffix("/step")))
        if peak and (name, "images/s") in values:
            done = images * flop
            shares = [100.0 * done / cost / best for cost, best in zip(costs, peak, strict=True)]
            found.append(Figure(f"{name}, share of the {precision} product", f"% by {unit.removesuffix('/step')}", shares))
    return found
