"""`inceptionctl bench lr` as a call: a learning rate range test on a recipe's training images."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.console import JsonObject
from inceptionctl.errors import DivergedError, RecipeError
from inceptionctl.stages.bench_io import leave_result, progress_bar, refuse_unwritable, run_in_ranks
from inceptionctl.stages.commands import command_words

if TYPE_CHECKING:
    from inceptionctl.distributed.signals import RankSignals
    from inceptionctl.distributed.world import World
    from inceptionctl.recipe.schema import Recipe

PICTURES = (".png", ".svg", ".pdf")
LEAST_STEPS = 10


@dataclass(frozen=True)
class BenchLrRequest:
    """The arguments and options of `inceptionctl bench lr`."""

    recipe: str
    settings: Sequence[str] = ()
    first: float = 1e-6
    """Rate of the first step."""
    last: float = 10.0
    """Rate of the last step, if the loss does not diverge before."""
    steps: int = 100
    """Optimizer steps of the recipe's global batch."""
    gpus: int | None = None
    cpu_ranks: int | None = None
    output: Path | None = None
    """A picture of loss against rate; one of PICTURES."""

    @property
    def words(self) -> list[str]:
        """The command of each rank, which leaves `output` to the process that starts it."""
        options = {"from": self.first, "to": self.last, "steps": self.steps, "gpus": self.gpus, "cpu_ranks": self.cpu_ranks}
        return command_words("bench lr", self.recipe, settings=self.settings, options=options)


def lr(request: BenchLrRequest) -> JsonObject | None:
    """Train a recipe's network from its beginning at a rate that rises exponentially, until the loss diverges: what `--json` prints.

    No run directory is made or changed. Ranks are started as `train` starts them; one by default. None in a rank that is not the one to
    print. Raises RecipeError, DataError, what keeps the recipe from being trained, RanksEndedError when a rank fails, and ResumeLater when a
    signal came.
    """
    from inceptionctl.distributed.signals import RankSignals, stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    world = world_from_environment()
    refuse_own_ranks(world, request.gpus, request.cpu_ranks)
    signals = RankSignals(speaks=world.rank == 0) if world else None
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _refuse_options(request)
    recipe = _recipe_of(request)
    if not world or not signals:
        _refuse_inputs(request, recipe)
        with stoppable("within the range test"):
            found = run_in_ranks(request.words, request.gpus, request.cpu_ranks, None)
    else:
        found = _measure_as_rank(world, signals, request, recipe)
        if world.rank or leave_result(found):
            return None
    if request.output:
        _draw(found, request.output)
    return found


def _refuse_options(request: BenchLrRequest) -> None:
    if not 0.0 < request.first < request.last < math.inf:
        raise RecipeError(
            f"--from {request.first:g} --to {request.last:g}: the rate must rise from above 0",
            "for example --from 1e-6 --to 10",
        )
    if request.output and request.output.suffix.lower() not in PICTURES:
        raise RecipeError(f"--output {request.output}: unknown format", f"use a name that ends in {', '.join(PICTURES)}")
    refuse_unwritable(request.output)


def _recipe_of(request: BenchLrRequest) -> Recipe:
    from inceptionctl.recipe import load_recipe
    from inceptionctl.stages.sources import fetch_first_weights
    from inceptionctl.train.inheritance import inherit
    from inceptionctl.train.preflight import with_counted_classes

    recipe = load_recipe(request.recipe, request.settings)
    fetch_first_weights(recipe)
    return with_counted_classes(inherit(recipe))


def _refuse_inputs(request: BenchLrRequest, recipe: Recipe) -> None:
    """Raise what keeps the recipe from being trained, as `train` does."""
    from inceptionctl.distributed.local import choose_ranks, visible_gpus
    from inceptionctl.recipe.ensemble_recipe import place_of
    from inceptionctl.stages.checks import check_inputs

    one_gpu = 1 if request.gpus is None and request.cpu_ranks is None and visible_gpus() else request.gpus
    where = partial(place_of, request.recipe, request.settings)
    check_inputs(recipe, choose_ranks(one_gpu, request.cpu_ranks), request.recipe, where, begins=True, verified=False)


def _measure_as_rank(world: World, signals: RankSignals, request: BenchLrRequest, recipe: Recipe) -> JsonObject:
    from inceptionctl.bench.lr_range import measure, rates, smoothed, suggest
    from inceptionctl.distributed.session import session
    from inceptionctl.train.preflight import open_images

    wanted, images = rates(request.first, request.last, request.steps), open_images(recipe)
    with (
        session(world, recipe.train.collective_timeout_seconds, ends_with=signals.ends_with) as joined,
        tempfile.TemporaryDirectory(prefix="inceptionctl-bench-") as made,
        progress_bar("steps") if world.rank == 0 else nullcontext(lambda name, done, total: None) as progress,
    ):
        signals.training_begins()
        losses, diverged, job = measure(joined, recipe, images, Path(made, "run"), signals, wanted, progress)
        about = {
            "precision": job.precision,
            "device": job.device.type,
            "ranks": world.size,
            "global_batch_size": job.batch.global_batch_size,
        }
    tried, finite = wanted[: len(losses)], [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise DivergedError("the loss of the first step is not finite", "lower --from, or see `inceptionctl data check`")
    found = suggest(tried, finite, diverged)
    return {
        "bench": "lr",
        "recipe": request.recipe,
        "settings": list(request.settings),
        **about,
        "rates": tried,
        "losses": [loss if math.isfinite(loss) else None for loss in losses],
        "smoothed": smoothed(finite).tolist(),
        "diverged_at": tried[-1] if diverged else None,
        "steepest_lr": found.steepest_lr,
        "tenth_lr": found.tenth_lr,
    }


def _draw(found: JsonObject, output: Path) -> None:
    from inceptionctl.bench.lr_range import Suggestion, drawn
    from inceptionctl.storage import write_atomically

    losses = [loss for loss in found["losses"] if loss is not None]
    suggestion = Suggestion(found["steepest_lr"], found["tenth_lr"])
    form, title = output.suffix.lower().removeprefix("."), f"{found['recipe']}, batches of {found['global_batch_size']}"
    tried = found["rates"][: len(losses)]
    write_atomically(output, drawn(title, tried, losses, suggestion, found["diverged_at"], form))
