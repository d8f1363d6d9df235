"""timm's train step, of timm's own parts, for the network of a recipe: what `bench step --ways timm` measures beside ours.

By what timm's train.py (1.0.31; it is not in the package) does in each step with the flags that `flags` gives back: forward and loss
under autocast, backward, dispatch_clip_grad, optimizer, loss.item(), zero_grad, ModelEmaV3; with several ranks DDP around the compiled
network, and sums of two losses whenever a line of its log falls due. cudnn's search for the fastest convolutions is on, as there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from inceptionctl.bench.figures import Contestant, Figure, ratio
from inceptionctl.bench.ways import TIMM, TIMM_COMPILED
from inceptionctl.data.loaders import Batch
from inceptionctl.errors import RecipeError
from inceptionctl.models import TIMM_PREFIX, find_spec, is_timm
from inceptionctl.models.summary import count_parameters, multiply_adds
from inceptionctl.models.timm_network import build_timm_network, import_timm
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.variants import Optim, RmsPropSection, SgdSection
from inceptionctl.train.job import Training
from inceptionctl.train.step import autocast
from inceptionctl.weights.counterparts import timm_network_as_large

EAGER, COMPILED = "timm", "timm, compiled"
INDUCTOR = "inductor"  # what `--torchcompile` means there
NEVER_REACHED = 1e6


def check_comparable(recipe: Recipe) -> None:
    """Raise RecipeError when timm has no network that does the work of this one, EnvironmentFault without a timm to import."""
    section = recipe.model
    theirs = timm_network_as_large(section.name)
    unit = None if is_timm(section.name) else find_spec(section.name).residual_unit
    for key, ours, built in (
        ("width", section.width, 1.0),
        ("residual_unit", section.residual_unit or unit, unit),
        ("freeze", section.freeze, []),
    ):
        if ours != built:
            raise RecipeError(
                f"timm builds and trains {theirs} with model.{key} {built} alone; this recipe has {ours}",
                f"leave model.{key} out, or timm out of --ways",
            )
    import_timm("--ways timm")


class TimmStep:
    """timm's network, loss, optimizer and averages, and rounds of its steps on one batch. `backend` compiles the network."""

    def __init__(self, job: Training, batch: Batch, *, passes: int, backend: str | None) -> None:
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        train, self._device, self._precision = job.recipe.train, job.device, job.precision
        self._passes, self._ranks, self._every = passes, job.world.size, train.log_every_steps
        self._images, self._labels = batch.images, batch.labels
        torch.manual_seed(train.seed)
        self.network = _network(job.recipe).to(job.device).train()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self._loss = LabelSmoothingCrossEntropy(train.label_smoothing) if train.label_smoothing else nn.CrossEntropyLoss()
        self.optimizer = create_optimizer_v2(
            self.network, lr=job.recipe.schedule.base_lr, **optimizer_options(job.recipe.optim)
        )
        self.average = ModelEmaV3(self.network, decay=train.ema_decay)
        self._model = self.network
        if backend:
            self._model = torch.compile(self.network, backend=backend)  # type: ignore[assignment]  # of a module it makes one
        if self._ranks > 1:
            self._model = _in_ddp(self._model, self._device)
        self._norm = clip_grad(job.recipe)
        self.done, self.losses = 0, 0.0

    def round(self) -> None:
        """Steps of one micro batch each."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            for _ in range(self._passes):
                self._step()
        finally:
            torch.backends.cudnn.benchmark = before

    def _step(self) -> None:
        from timm.utils import dispatch_clip_grad

        images = self._images.contiguous(memory_format=torch.channels_last)
        with autocast(self._precision, self._device):
            loss: Tensor = self._loss(self._model(images), self._labels)
        torch.autograd.backward(loss)
        if self._norm:
            dispatch_clip_grad(self._model.parameters(), value=self._norm)
        self.optimizer.step()
        self.losses += loss.item()  # a wait for the device in each step, as there
        self.optimizer.zero_grad()
        self.done += 1
        self.average.update(self.network, step=self.done)
        if self._ranks > 1 and self.done % self._every == 0:
            self._share(loss)

    def _share(self, loss: Tensor) -> None:
        from timm.utils import reduce_tensor

        for value in (self.losses / self.done, loss.item()):
            reduce_tensor(loss.new_tensor([value]), self._ranks).item()


class TimmFacts(TypedDict):
    """What timm's step is of, for people who read the figures."""

    version: str
    network: str
    parameters: int
    multiply_adds: int
    flags: str
    """timm's train.py with this network."""
    differences: list[str]
    """What it does otherwise."""


def contestants(job: Training, batch: Batch, *, passes: int, ways: Sequence[str]) -> tuple[list[Contestant], TimmFacts]:
    """timm's step, as it is, compiled or both, as `ways` say, and what it is."""
    kinds = ((TIMM, EAGER, None), (TIMM_COMPILED, COMPILED, INDUCTOR))
    steps = {name: TimmStep(job, batch, passes=passes, backend=backend) for way, name, backend in kinds if way in ways}
    network, recipe = next(iter(steps.values())).network, job.recipe
    parameters = count_parameters(network)
    return [Contestant(name, step.round, passes) for name, step in steps.items()], {
        "version": import_timm("--ways timm").__version__,
        "network": timm_network_as_large(recipe.model.name),
        "parameters": parameters,
        "multiply_adds": multiply_adds(network, recipe.model.input_px),
        "flags": flags(recipe, bf16=job.precision == "bf16", compiled=TIMM_COMPILED in ways, ranks=job.world.size),
        "differences": differences(job, parameters),
    }


def _network(recipe: Recipe) -> nn.Module:
    section = recipe.model
    return build_timm_network(
        TIMM_PREFIX + timm_network_as_large(section.name),
        num_classes=section.num_classes,
        dropout=section.dropout,
        batch_norm_momentum=section.batch_norm_momentum,
        batch_norm_eps=section.batch_norm_eps,
        input_px=section.input_px,
    )


def _in_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.13 calls the argument otherwise; before, it knows this name alone.
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def optimizer_options(optim: Optim) -> dict[str, Any]:
    """timm's optimizer for a recipe's optim section; whether it takes many tensors at once is left to timm."""
    match optim:
        case RmsPropSection():
            own = {"momentum": optim.momentum, "eps": optim.epsilon, "alpha": optim.decay, "centered": optim.centered}
            return {"opt": "rmsproptf", "weight_decay": optim.weight_decay, **own}
        case SgdSection():
            # timm's `sgd` is Nesterov's.
            name = "sgd" if optim.nesterov else "momentum"
            return {"opt": name, "weight_decay": optim.weight_decay, "momentum": optim.momentum}
        case _:
            # What clips is dispatch_clip_grad: LAMB's own would come on top.
            clips = {"max_grad_norm": None} if optim.name == "lamb" else {}
            kept = {"betas": optim.betas, "eps": optim.epsilon, **clips}
            return {"opt": optim.name, "weight_decay": optim.weight_decay, **kept}


def clip_grad(recipe: Recipe) -> float:
    """timm's --clip-grad for a recipe: it knows fixed norms alone, and one that is never reached costs as much as any."""
    most: float | None = recipe.optim.clip_global_norm
    return NEVER_REACHED if most is None else most


def flags(recipe: Recipe, *, bf16: bool, compiled: bool, ranks: int) -> str:
    """timm's train.py with this network, these settings and the flags that make it fastest."""
    options, train = optimizer_options(recipe.optim), recipe.train
    words = [f"--model {timm_network_as_large(recipe.model.name)}", "--channels-last"]
    words += ["--amp --amp-dtype bfloat16"] if bf16 else []
    words += [f"--opt {options['opt']}", f"--weight-decay {options['weight_decay']:g}"]
    words += [f"--opt-eps {options['eps']:g}"] if "eps" in options else []
    words += [f"--momentum {options['momentum']:g}"] if "momentum" in options else []
    words += [f"--clip-grad {clip_grad(recipe):g}"] if clip_grad(recipe) else []
    words += [f"--smoothing {train.label_smoothing:g}", f"--drop {recipe.model.dropout:g}"]
    words += ["--model-ema", f"--model-ema-decay {train.ema_decay:g}"]
    words += ["--torchcompile"] if compiled else []
    words += ["--no-ddp-bb"] if ranks > 1 else []
    return " ".join(words)


def differences(job: Training, parameters: int) -> list[str]:
    """What the two steps do not have in common beyond how they are written."""
    found = ["timm reads the loss from the device in every step, inceptionctl once in train.log_every_steps steps"]
    ours = count_parameters(job.engine.model)
    if getattr(job.engine.model, "aux_head", None) is not None:
        found.append(f"inceptionctl trains the auxiliary head too ({ours - parameters:,} more parameters), timm has none")
    elif ours != parameters:
        found.append(f"inceptionctl's network has {ours:,} parameters, timm's {parameters:,}")
    if job.recipe.optim.clip_global_norm is None:
        found.append(_clipped_otherwise(job.recipe.optim.clip_agc))
    if not job.recipe.train.channels_last:
        found.append("timm's network is channels_last, inceptionctl's is not")
    if job.recipe.train.zero_stage:
        found.append("inceptionctl's optimizer is in parts (ZeRO), each rank of timm's holds all of it")
    return found


def _clipped_otherwise(agc: float) -> str:
    theirs = f"timm clips at a global norm of {NEVER_REACHED:g}, which is never reached and reads the gradients alone"
    if not agc:
        return f"inceptionctl clips nothing; {theirs}"
    ours = "inceptionctl clips by the weights' norms too, and reads them in each step (optim.clip_agc"
    return f"{ours}: 9 ms more for Inception-v4 on a CPU); {theirs}"


def ratios(figures: Sequence[Figure], engine: str) -> list[Figure]:
    """`engine` by each of timm's, and its images a second over those of timm's best where both of timm's ran."""
    there = {figure.name: figure.median for figure in figures if figure.unit == "images/s"}
    theirs = [name for name in (EAGER, COMPILED) if name in there]
    found = [ratio(figures, engine, name, unit) for name in theirs for unit in ("s/step", "CPU s/step", "images/s")]
    if len(theirs) > 1:
        best = max(theirs, key=lambda name: there[name])
        values = ratio(figures, engine, best, "images/s").values
        found.append(Figure(f"{engine} over timm's best ({best})", "ratio of images/s", values))
    return found
